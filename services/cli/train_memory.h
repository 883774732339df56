// What a training run will need, said before it starts: a refusal with both numbers instead of a killed
// process.
//
// Tested by tests/services/cli/train_test.py.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/matmul.h"
#include "model/config.h"
#include "services/cli/train_flags.h"

namespace clamor::cli {

// What the estimate depends on besides the flags.
struct MemoryNeeds {
  kernels::DType stored, written;  // of the matrices: as --model holds them, and as they are exported
  int64_t longest = 0;             // tokens of the longest sample
};

// Bytes of parameters, gradients, moments, packed weights and activations, and of the copy of the model that
// answers held-out prompts.
int64_t TrainingBytes(const TrainFlags& flags, const ModelConfig& config, const MemoryNeeds& needs);

// The least of what the machine has free and what its control group leaves.
int64_t AvailableBytes();

// Settles --recompute=auto and returns TrainingBytes. RESOURCE_EXHAUSTED names what is needed, what is there,
// and the flags that help.
absl::StatusOr<int64_t> FitMemory(TrainFlags& flags, const ModelConfig& config, const MemoryNeeds& needs);

}  // namespace clamor::cli
