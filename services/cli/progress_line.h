// A line of progress on stderr: redrawn in place on a terminal, now and then a line elsewhere.
//
// Tested by tests/services/cli/eval_test.py.
#pragma once

#include <string>

#include "absl/time/time.h"

namespace clamor::cli {

class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine();  // the line goes

  // Elsewhere than on a terminal every ten seconds, unless it is the `last`.
  void Show(const std::string& line, bool last = false);

 private:
  const bool terminal_;
  absl::Time shown_ = absl::InfinitePast();
};

}  // namespace clamor::cli
