// How well the model so far drafts for itself: held-out prompts answered by the engine that serves.
//
// Tested by tests/services/cli/train_test.py.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/config.h"
#include "model/train/sample.h"
#include "model/train/training_log.h"

namespace clamor::cli {

struct DecodingTask {
  std::string model_dir;  // loaded anew
  std::vector<std::vector<int32_t>> prompts;
  int32_t max_tokens = 128;
  std::vector<std::string> nodes;  // node counts of the merged tree, or "published"
  int threads = 1;
};

struct DecodingResult {
  std::vector<LoggedSpeed> speeds;  // [nodes]
  std::vector<TextSample> samples;  // the first few answers, which are the same whatever is drafted
};

// Greedy answers to all prompts, once for each entry of `nodes`. Each prompt starts without knowledge from
// others. Ends early, CANCELLED, when `stop` is set. INTERNAL if two node counts gave different answers.
absl::StatusOr<DecodingResult> DecodeHeldOut(const DecodingTask& task, const std::atomic<bool>& stop);

// What stands before the first response of the first `count` samples, if an answer then has room.
std::vector<std::vector<int32_t>> PromptsOf(const std::vector<Sample>& samples, int32_t count,
                                            const ModelConfig& config);

// "held-out loss 2.3378, tokens per forward by nodes 8: 2.12, published: 2.40", or what of it is known.
std::string Summary(const LoggedEvaluation& evaluation);

}  // namespace clamor::cli
