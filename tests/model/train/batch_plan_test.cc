#include "model/train/batch_plan.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <numeric>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "model/random.h"

namespace clamor {
namespace {

using Sizes = std::vector<int32_t>;

// The contract, read out word by word: `parts` are `order` cut in pieces, none could have taken the next
// sample, and only a sample alone is over the limit.
void ExpectPacked(const SampleIndices& order, const std::vector<SampleIndices>& parts, const Sizes& sizes,
                  int64_t limit) {
  SampleIndices joined;
  for (size_t i = 0; i < parts.size(); ++i) {
    ASSERT_FALSE(parts[i].empty());
    int64_t tokens = 0;
    for (const int32_t sample : parts[i]) tokens += sizes[sample];
    if (parts[i].size() > 1) {
      EXPECT_LE(tokens, limit);
    }
    if (i + 1 < parts.size()) {
      EXPECT_GT(tokens + sizes[parts[i + 1][0]], limit);
    }
    joined.insert(joined.end(), parts[i].begin(), parts[i].end());
  }
  EXPECT_EQ(joined, order);
}

std::vector<SampleIndices> Copies(const std::vector<std::span<const int32_t>>& runs) {
  std::vector<SampleIndices> copies;
  for (const auto& run : runs) copies.emplace_back(run.begin(), run.end());
  return copies;
}

SampleIndices Joined(const std::vector<SampleIndices>& parts) {
  SampleIndices joined;
  for (const SampleIndices& part : parts) joined.insert(joined.end(), part.begin(), part.end());
  return joined;
}

// By length: laid side by side again, batches hold ever longer samples.
std::vector<SampleIndices> ByLength(std::vector<SampleIndices> plan, const Sizes& sizes) {
  std::ranges::sort(plan, {}, [&](const SampleIndices& batch) {
    return std::tuple(sizes[batch.front()], sizes[batch.back()], -static_cast<int64_t>(batch.size()));
  });
  const SampleIndices order = Joined(plan);
  EXPECT_TRUE(std::ranges::is_sorted(order, {}, [&](int32_t i) { return sizes[i]; }));
  return plan;
}

void ExpectPlanned(const Sizes& sizes, BatchOrder batch_order, int64_t batch_tokens, uint64_t seed,
                   uint64_t epoch) {
  auto plan = PlanEpoch(sizes, batch_order, batch_tokens, seed, epoch);
  if (batch_order == BatchOrder::kByLength) plan = ByLength(std::move(plan), sizes);
  SampleIndices order = Joined(plan);
  ExpectPacked(order, plan, sizes, batch_tokens);
  std::sort(order.begin(), order.end());
  SampleIndices all(sizes.size());
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(order, all);  // every sample once
  for (const SampleIndices& batch : plan) {
    for (const int64_t micro : {int64_t{1}, batch_tokens / 2, batch_tokens}) {
      ExpectPacked(batch, Copies(MicroBatches(batch, sizes, micro)), sizes, micro);
    }
  }
}

TEST(BatchPlanTest, EverySmallCase) {
  for (int count = 0; count <= 5; ++count) {
    Sizes sizes(count, 1);
    while (true) {
      for (int64_t batch_tokens = 4; batch_tokens <= 9; ++batch_tokens)
        for (const BatchOrder order : {BatchOrder::kMixed, BatchOrder::kByLength})
          ExpectPlanned(sizes, order, batch_tokens, 1, 2);
      int digit = 0;
      while (digit < count && ++sizes[digit] == 5) sizes[digit++] = 1;
      if (digit == count) break;
    }
  }
}

TEST(BatchPlanTest, LargeRandomCases) {
  uint64_t state = 1;
  for (int round = 0; round < 30; ++round) {
    Sizes sizes(RandomBelow(state, 2000));
    for (int32_t& size : sizes) size = 2 + RandomBelow(state, 510);
    ExpectPlanned(sizes, round % 2 ? BatchOrder::kByLength : BatchOrder::kMixed,
                  512 + RandomBelow(state, 8000), state, round);
  }
}

TEST(BatchPlanTest, ASampleOverTheLimitStandsAlone) {
  const Sizes sizes = {3, 50, 3};
  const SampleIndices order = {0, 1, 2};
  EXPECT_EQ(Copies(MicroBatches(order, sizes, 10)), (std::vector<SampleIndices>{{0}, {1}, {2}}));
}

TEST(BatchPlanTest, IsAFunctionOfSeedAndEpoch) {
  const Sizes sizes(100, 10);
  for (const BatchOrder order : {BatchOrder::kMixed, BatchOrder::kByLength}) {
    EXPECT_EQ(PlanEpoch(sizes, order, 64, 7, 3), PlanEpoch(sizes, order, 64, 7, 3));
    EXPECT_NE(PlanEpoch(sizes, order, 64, 7, 3), PlanEpoch(sizes, order, 64, 7, 4));
    EXPECT_NE(PlanEpoch(sizes, order, 64, 7, 3), PlanEpoch(sizes, order, 64, 8, 3));
  }
  // A mixed order does not hang on the batch size, nor on the sizes.
  EXPECT_EQ(Joined(PlanEpoch(sizes, BatchOrder::kMixed, 64, 7, 3)),
            Joined(PlanEpoch(Sizes(100, 2), BatchOrder::kMixed, 9, 7, 3)));
}

TEST(BatchPlanTest, EveryOrderIsEquallyLikely) {
  constexpr int kEpochs = 24000;
  const auto expect_even = [](const Sizes& sizes, BatchOrder order, int64_t batch_tokens, int orders) {
    std::map<SampleIndices, int> counts;
    for (int epoch = 0; epoch < kEpochs; ++epoch) {
      ++counts[Joined(PlanEpoch(sizes, order, batch_tokens, 5, epoch))];
    }
    EXPECT_EQ(counts.size(), static_cast<size_t>(orders));
    for (const auto& [samples, count] : counts) {
      EXPECT_NEAR(count, kEpochs / orders, 5 * std::sqrt(kEpochs / orders));
    }
  };
  expect_even(Sizes(4, 1), BatchOrder::kMixed, 2, 24);
  expect_even(Sizes(4, 1), BatchOrder::kByLength, 1, 24);
  // Two batches, {0, 1, 2} and {3}: either first.
  expect_even({1, 2, 3, 4}, BatchOrder::kByLength, 7, 2);
}

}  // namespace
}  // namespace clamor
