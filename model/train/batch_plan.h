// Which samples an epoch puts together: a pure function, so that a resumed run meets the same batches.
//
// Rows are ragged and nothing is padded, so batches by length save no work here. They are for comparing with
// trainers that pad; a mixed batch is a better sample of the data and learns more (see
// deploy/demo-model/README.md). Tested by tests/model/train/batch_plan_test.cc.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace clamor {

using SampleIndices = std::vector<int32_t>;

enum class BatchOrder {
  kMixed,     // samples in a shuffled order
  kByLength,  // samples of like length together, the batches in a shuffled order
};

// The batches of one epoch: every index of `sizes` (tokens of each sample) exactly once, shuffled by (seed,
// epoch), cut so that a batch holds at most `batch_tokens` and would not have had room for the sample after
// it. A sample over the limit stands alone; who loads samples sees to it that there is none.
std::vector<SampleIndices> PlanEpoch(std::span<const int32_t> sizes, BatchOrder batch_order,
                                     int64_t batch_tokens, uint64_t seed, uint64_t epoch);

// `batch`, in order, as runs of at most `micro_tokens` and at least one sample: what is held in memory at
// once. The parts point into `batch`.
std::vector<std::span<const int32_t>> MicroBatches(std::span<const int32_t> batch,
                                                   std::span<const int32_t> sizes, int64_t micro_tokens);

}  // namespace clamor
