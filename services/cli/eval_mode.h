// The ways of decoding that an evaluation compares. Tested by tests/services/cli/eval_suite_test.cc.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/worker/request.h"

namespace clamor::cli {

struct EvalMode {
  std::string name;  // "plain", "published", "merged:auto", "merged:16"
  SpeculationOptions speculation;
};

inline constexpr size_t kMaxModes = 16;

// `modes`: "plain", "published", "merged", "merged:NODES"; a bare "merged" stands for one mode for each of
// `nodes`. NODES is "auto" or 1 to SpeculationOptions::kMaxNodes. A usage error names --modes or --nodes and
// the value: unknown, named twice, too many.
absl::StatusOr<std::vector<EvalMode>> ParseModes(const std::vector<std::string>& modes,
                                                 const std::vector<std::string>& nodes);

// The index of "plain", which the others are held against.
std::optional<size_t> PlainMode(const std::vector<EvalMode>& modes);

}  // namespace clamor::cli
