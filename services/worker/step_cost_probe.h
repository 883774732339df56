// Measures what a forward pass costs by its number of rows, on this machine, now.
#pragma once

#include <array>

#include "model/model.h"
#include "services/worker/step_cost.h"

namespace clamor {

// Runs forward passes of StepCost::kRows[i] rows, each size until its time is known or one took over a tenth
// of a second; sizes above that stay 0. Uses pages of `cache` and gives them back. Takes about half a second
// on a model of 0.5B parameters.
std::array<double, StepCost::kRows.size()> ProbeStepCost(int32_t max_positions, KvCache& cache,
                                                         ForwardPass& pass);

}  // namespace clamor
