// Turns a step plan and the draft trees into rows for Transformer::Forward.
//
// Tested by tests/services/worker/step_batch_test.cc.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "model/batch.h"
#include "services/worker/scheduler.h"
#include "services/worker/sequence.h"

namespace clamor {

// A prompt token sees all tokens up to itself; a node sees the text up to the root and its own ancestors.
// Logits are wanted of all nodes, roots included, in the order of the plan. A decoding sequence's committed
// tokens are taken to be all but its newest: those that the same step reads come first in the batch. `batch`
// borrows from `sequences` until the next call.
void BuildBatch(std::span<const StepShare> plan, std::span<const std::unique_ptr<Sequence>> sequences,
                Batch& batch);

}  // namespace clamor
