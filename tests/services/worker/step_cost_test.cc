#include "services/worker/step_cost.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace clamor {
namespace {

constexpr auto kRows = StepCost::kRows;
using Seconds = std::array<double, kRows.size()>;

void ExpectNeverCheaper(const StepCost& cost) {
  for (int32_t rows = 1; rows < 300; ++rows) ASSERT_LE(cost.Seconds(rows), cost.Seconds(rows + 1)) << rows;
}

TEST(StepCost, MeasuredSizesAndLinesBetween) {
  StepCost cost;
  cost.Set({1, 1.5, 2, 3, 5, 9, 17, 33});
  const Seconds expected = {1, 1.5, 2, 3, 5, 9, 17, 33};
  for (size_t i = 0; i < kRows.size(); ++i) EXPECT_DOUBLE_EQ(cost.Seconds(kRows[i]), expected[i]);
  EXPECT_DOUBLE_EQ(cost.Seconds(3), 1.75);
  EXPECT_DOUBLE_EQ(cost.Seconds(48), 13);
  EXPECT_DOUBLE_EQ(cost.Seconds(256), 66);
  ExpectNeverCheaper(cost);
}

TEST(StepCost, UnknownSizesInProportionNoiseFlattened) {
  StepCost cost;
  cost.Set({1, 2, 1.5, 4, 0, -1, 0, 0});
  EXPECT_DOUBLE_EQ(cost.Seconds(4), 2) << "more rows are not cheaper";
  EXPECT_DOUBLE_EQ(cost.Seconds(16), 8);
  EXPECT_DOUBLE_EQ(cost.Seconds(128), 64);
  ExpectNeverCheaper(cost);
}

TEST(StepCost, NothingKnownNothingPays) {
  StepCost cost;
  EXPECT_EQ(cost.Seconds(7), 7);
  EXPECT_EQ(cost.BestNodes(3, std::vector<float>(50, 0.98f)), 0);
  cost.Refresh(5, 0, 1);
  EXPECT_EQ(cost.Seconds(7), 7) << "steps alone do not make a table";
}

TEST(StepCost, RefreshGoesToWhatStepsTake) {
  StepCost cost;
  cost.Set({1, 1, 1, 1, 1, 1, 1, 1});
  std::mt19937 random(1);
  const auto truth = [](int32_t rows) { return 0.5 + 0.1 * rows; };
  for (int i = 0; i < 20000; ++i) {
    const int32_t rows = kRows[random() % kRows.size()];
    cost.Refresh(rows, 0, truth(rows));
    if (i % 500 == 0) ExpectNeverCheaper(cost);
  }
  for (const int32_t rows : kRows) EXPECT_NEAR(cost.Seconds(rows), truth(rows), 0.1 * truth(rows)) << rows;
}

TEST(StepCost, PromptsTakeAboutAsLongAsTheStepThatReadsThem) {
  StepCost cost;
  EXPECT_EQ(cost.PrefillSeconds(1000), 0) << "nothing known";
  EXPECT_EQ(cost.PrefillTokens(4), std::numeric_limits<int32_t>::max());
  cost.Set({1, 1, 1, 1, 2, 4, 8, 16});
  EXPECT_DOUBLE_EQ(cost.PrefillSeconds(1000), 125);
  // Prompts turn out to cost a fifth of that.
  std::mt19937 random(1);
  for (int i = 0; i < 200; ++i) {
    const int32_t rows = static_cast<int32_t>(random() % 17),
                  tokens = 1 + static_cast<int32_t>(random() % 300);
    cost.Refresh(rows, tokens, (rows > 0 ? cost.Seconds(rows) : 0) + 0.025 * tokens);
  }
  EXPECT_NEAR(cost.PrefillSeconds(1000), 25, 2);
  for (const int32_t rows : kRows) {
    const int32_t tokens = cost.PrefillTokens(rows);
    EXPECT_LE(cost.PrefillSeconds(tokens), std::max(cost.Seconds(rows), cost.PrefillSeconds(8))) << rows;
    EXPECT_GT(cost.PrefillSeconds(tokens + 1), cost.Seconds(rows)) << rows;
  }
  EXPECT_NEAR(cost.Seconds(8), 1, 0.1) << "steps with prompts say little of those without";

  // Trees that cost twice what is thought do not make the few tokens beside them dear.
  cost.Set({1, 1, 1, 1, 2, 4, 8, 16});
  for (int i = 0; i < 400; ++i) cost.Refresh(64, 8, 2 * 8 + 0.125 * 8);
  EXPECT_LT(cost.PrefillSeconds(1000), 250);
  EXPECT_GT(cost.Seconds(64), 14);
}

TEST(StepCost, OneOutlierMovesLittle) {
  StepCost cost;
  cost.Set({1, 2, 4, 8, 16, 32, 64, 128});
  cost.Refresh(8, 0, 1e9);
  EXPECT_LE(cost.Seconds(8), 8 * 1.1);
  cost.Refresh(8, 0, 0);
  EXPECT_GE(cost.Seconds(8), 8 * 0.9);
  ExpectNeverCheaper(cost);
}

// All n, by the definition.
int32_t NaiveBest(const StepCost& cost, int32_t sequences, const std::vector<float>& survivals) {
  std::vector<double> rates;
  for (size_t n = 0; n <= survivals.size(); ++n) {
    double tokens = sequences;
    for (size_t i = 0; i < n; ++i) tokens += survivals[i];
    rates.push_back(tokens / cost.Seconds(sequences + static_cast<int32_t>(n)));
  }
  const auto best = std::max_element(rates.begin(), rates.end());
  return *best > 1.03 * rates[0] ? static_cast<int32_t>(best - rates.begin()) : 0;
}

TEST(BestNodes, AgainstAllCounts) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(0, 1);
  int none = 0, some = 0;
  for (int round = 0; round < 5000; ++round) {
    Seconds seconds;
    double last = 1;
    for (double& s : seconds) s = last *= 1 + uniform(random) * (round % 3 == 0 ? 1.2 : 0.3);
    StepCost cost;
    cost.Set(seconds);
    std::vector<float> survivals(random() % 130);
    for (float& s : survivals) s = uniform(random) * uniform(random);
    std::sort(survivals.begin(), survivals.end(), std::greater<>());
    const int32_t sequences = 1 + static_cast<int32_t>(random() % 20);
    const int32_t best = cost.BestNodes(sequences, survivals);
    ASSERT_EQ(best, NaiveBest(cost, sequences, survivals)) << "round " << round;
    ++(best == 0 ? none : some);
  }
  EXPECT_GT(none, 100);
  EXPECT_GT(some, 100);
}

TEST(BestNodes, FreeRowsAreAllTaken) {
  StepCost cost;
  cost.Set({1, 1, 1, 1, 1, 1, 1, 1});
  EXPECT_EQ(cost.BestNodes(1, std::vector<float>(60, 0.01f)), 60);
  EXPECT_EQ(cost.BestNodes(1, std::vector<float>(2, 0.01f)), 0) << "2 % are not worth it";
  EXPECT_EQ(cost.BestNodes(1, {}), 0);
}

}  // namespace
}  // namespace clamor
