// What the benchmarks of the engine share.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "services/worker/loaded_model.h"

namespace clamor {

struct BenchFlags {
  ModelOptions model;
  std::string suite, data, output;
  int64_t limit = 10;
  int32_t max_tokens = 128;
  std::vector<int32_t> levels = {1, 2, 4, 8, 16};
  int rounds = 3;
  int32_t streams = 8;
  int32_t prompt_tokens = 4096;
  double minutes = 30;
  int64_t kv_tokens = 4096;
  std::vector<int32_t> rows = {1, 2, 4, 8, 16, 32, 64};
  std::vector<int32_t> contexts = {128};
};

using Prompts = std::vector<std::vector<int32_t>>;
using BenchFn = absl::StatusOr<nlohmann::ordered_json> (*)(const BenchFlags&, const LoadedModel&,
                                                           const Prompts&);

// See engine_bench.cc. Each prints its table and returns what it measured.
absl::StatusOr<nlohmann::ordered_json> Concurrency(const BenchFlags&, const LoadedModel&, const Prompts&);
absl::StatusOr<nlohmann::ordered_json> Fairness(const BenchFlags&, const LoadedModel&, const Prompts&);
absl::StatusOr<nlohmann::ordered_json> Soak(const BenchFlags&, const LoadedModel&, const Prompts&);
absl::StatusOr<nlohmann::ordered_json> Steps(const BenchFlags&, const LoadedModel&, const Prompts&);  // none

}  // namespace clamor
