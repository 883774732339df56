// Answers the prompts of an evaluation in every mode, side by side.
//
// Each mode has an engine of its own, as a server of that mode would be: what it learns (calibration,
// adjacency, step costs) stays with it. A prompt is answered in all modes before the next one is begun, each
// time beginning with another mode, so that a busy machine slows all of them alike. Tested by
// tests/services/cli/eval_test.py.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/cli/eval_figures.h"
#include "services/cli/eval_mode.h"
#include "services/cli/eval_suite.h"
#include "services/worker/loaded_model.h"
#include "services/worker/request.h"

namespace clamor::cli {

// What is asked of the model, in its own ids.
struct Questions {
  std::vector<EvalQuestion> asked;
  std::map<std::string, int64_t> too_long;  // left out by category: prompt and answer exceed the context
};

// The first `limit` (0: all) prompts of each category that leave room for `max_tokens` tokens of answer.
// `chat`: text is a user's message. An error names "path:line".
absl::StatusOr<Questions> EncodeQuestions(const LoadedModel& model, const std::vector<SuitePrompt>& prompts,
                                          const std::string& path, bool chat, int64_t limit,
                                          int32_t max_tokens);

struct EvalTask {
  const LoadedModel* model = nullptr;  // borrowed
  std::vector<EvalQuestion> questions;
  std::vector<EvalMode> modes;
  Request options;        // tokens, sampling and end of each answer; the rest is not read
  std::string retrieval;  // HOST:PORT of a store to take drafts from, or empty; the tenant is "default"
  bool fresh = false;     // what drafting learned is forgotten after each prompt; then without a store
};

// The prompts that all modes have answered: all of them, or those before `stop` was set. Progress goes to
// stderr.
absl::StatusOr<std::vector<Answered>> Evaluate(const EvalTask& task, const std::atomic<bool>& stop);

}  // namespace clamor::cli
