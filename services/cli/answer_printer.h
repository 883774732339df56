// An answer on standard output as it comes. With drafts shown, the text of tokens that were drafted, and so
// cost no forward of their own, is green.
//
// Not thread-safe. Tested by tests/services/cli/answer_printer_test.cc.
#pragma once

#include <cstddef>
#include <deque>
#include <string>
#include <string_view>

#include "services/worker/request.h"

namespace clamor::cli {

class AnswerPrinter {
 public:
  explicit AnswerPrinter(bool show_drafts) : show_drafts_(show_drafts) {}

  // What the terminal gets for `delta`. Its text may be that of earlier tokens: what could become a stop
  // string lags behind them. Text that no token is known to have made stays plain.
  std::string Render(const Delta& delta);

  void Print(const Delta& delta);  // Render, to standard output

 private:
  // Text that has not come yet.
  struct Run {
    size_t bytes;
    bool drafted;
  };

  bool show_drafts_;
  std::deque<Run> runs_;  // no two alike beside each other
};

}  // namespace clamor::cli
