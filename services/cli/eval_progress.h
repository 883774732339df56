// The progress line of an evaluation.
//
// Tested by tests/services/cli/eval_test.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "services/cli/eval_figures.h"
#include "services/cli/progress_line.h"

namespace clamor::cli {

class EvalProgress {
 public:
  // The clock starts.
  EvalProgress(size_t prompts, size_t modes);

  // Prompt number `prompt` (from 0) has been answered in one more mode.
  void Show(size_t prompt, const EvalQuestion& question, const std::string& mode, const ModeAnswer& answer);

 private:
  const size_t prompts_, answers_;
  const absl::Time begin_;
  size_t done_ = 0;  // answers
  ProgressLine line_;
};

}  // namespace clamor::cli
