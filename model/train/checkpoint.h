// A training run on disk: `checkpoint-STEP.safetensors`, parameters and both moments bit for bit, and a small
// JSON in which the trainer keeps the rest of its state. A SHA-256 over all of it tells a damaged file.
//
// The newest two are kept, so a run needs the room of three; a process killed at any moment leaves at least
// what was whole before. One process writes into a folder; any number may read.
//
// Tested by tests/model/train/checkpoint_test.cc.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/train/parameters.h"
#include "nlohmann/json.hpp"

namespace clamor {

// Borrowed arrays of one ParameterTable, [table.total()] each.
template <typename T>
struct TrainingArrays {
  std::span<T> parameters, first_moments, second_moments;
};

// Writes checkpoint `step` (replacing one of that number), then removes all but it and the newest before it:
// those of later steps too, which belong to a course of training that was given up. When it returns OK, the
// new one is durable; otherwise the old ones are all still there. Errors are those of AtomicFile.
//
// `state` comes back as it was, but JSON knows no NaN or infinity: write doubles that may be one as text.
// REQUIRES: step >= 0.
absl::Status SaveCheckpoint(const std::string& dir, const ParameterTable& table, int64_t step,
                            const nlohmann::json& state, const TrainingArrays<const float>& arrays);

struct LoadedCheckpoint {
  int64_t step = 0;
  nlohmann::json state;
  std::vector<std::string> skipped;  // why newer ones could not be used, a message each, newest first
};

// Reads the newest whole checkpoint of `dir` into `arrays`, which are touched only once it was checked.
// NOT_FOUND: there is none (nor a folder). DATA_LOSS: there are some, and none can be used; says why for
// each. One that holds other tensors than `table` counts as not usable.
absl::StatusOr<LoadedCheckpoint> LoadNewestCheckpoint(const std::string& dir, const ParameterTable& table,
                                                      const TrainingArrays<float>& arrays);

}  // namespace clamor
