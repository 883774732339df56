#include "model/train/batch_plan.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <utility>

#include "model/random.h"

namespace clamor {
namespace {

template <typename T>
void Shuffle(std::vector<T>& items, uint64_t& state) {
  for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[RandomBelow(state, i)]);
}

}  // namespace

std::vector<SampleIndices> PlanEpoch(std::span<const int32_t> sizes, BatchOrder batch_order,
                                     int64_t batch_tokens, uint64_t seed, uint64_t epoch) {
  constexpr uint64_t kShuffle = ~uint64_t{0};  // in the place of a sample's index, which is never this large
  SampleIndices order(sizes.size());
  std::iota(order.begin(), order.end(), 0);
  uint64_t state = MixSeed(seed, epoch, kShuffle);
  Shuffle(order, state);
  const bool by_length = batch_order == BatchOrder::kByLength;
  if (by_length) {  // stable: among equals the shuffled order stays
    std::ranges::stable_sort(order, {}, [&](int32_t i) { return sizes[i]; });
  }

  std::vector<SampleIndices> batches;
  for (const std::span<const int32_t> run : MicroBatches(order, sizes, batch_tokens)) {
    batches.emplace_back(run.begin(), run.end());
  }
  if (by_length) Shuffle(batches, state);
  return batches;
}

std::vector<std::span<const int32_t>> MicroBatches(std::span<const int32_t> batch,
                                                   std::span<const int32_t> sizes, int64_t micro_tokens) {
  std::vector<std::span<const int32_t>> runs;
  size_t begin = 0;
  int64_t tokens = 0;
  for (size_t i = 0; i < batch.size(); ++i) {
    const int32_t size = sizes[batch[i]];
    if (i > begin && tokens + size > micro_tokens) {
      runs.push_back(batch.subspan(begin, i - begin));
      begin = i;
      tokens = 0;
    }
    tokens += size;
  }
  if (begin < batch.size()) runs.push_back(batch.subspan(begin));
  return runs;
}

}  // namespace clamor
