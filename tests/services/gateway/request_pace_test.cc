#include "services/gateway/request_pace.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <utility>
#include <vector>

namespace clamor {
namespace {

TEST(RequestPaceTest, NothingIsKnownAtFirst) {
  RequestPace pace;
  EXPECT_EQ(pace.Mean(3), 0);
  EXPECT_EQ(pace.AtMost(3), 0);
  pace.Add(0.5, 2);
  EXPECT_DOUBLE_EQ(pace.Mean(2), 0.5);
  EXPECT_DOUBLE_EQ(pace.Mean(8), 0.5) << "one says nothing of how it grows";
  EXPECT_GT(pace.AtMost(2), 1);
  for (int i = 0; i < 10; ++i) pace.Add(i % 2 == 0 ? 0.4 : 0.8, i % 2 == 0 ? 4 : 5);
  EXPECT_LT(pace.Mean(4), pace.Mean(5));
  EXPECT_GT(pace.Mean(1), 0.1) << "alone it gets at most what all had together";
}

TEST(RequestPaceTest, LearnsALineAndForgetsIt) {
  RequestPace pace;
  for (int i = 0; i < 200; ++i) pace.Add(0.1 + 0.02 * (1 + i % 8), 1 + i % 8);
  EXPECT_NEAR(pace.Mean(1), 0.12, 1e-4);
  EXPECT_NEAR(pace.Mean(12), 0.34, 1e-4);
  EXPECT_NEAR(pace.AtMost(5), 0.20, 1e-3) << "no request was off the line for long";
  for (int i = 0; i < 1000; ++i) pace.Add(0.1, 1 + i % 8);
  EXPECT_NEAR(pace.Mean(12), 0.1, 1e-4);
  for (int i = 0; i < 1000; ++i) pace.Add(0.3 - 0.02 * (1 + i % 8), 1 + i % 8);
  EXPECT_NEAR(pace.Mean(12), 0.21, 0.01) << "more at once are never taken to be faster";
}

// The same sums, each taken anew over all requests.
TEST(RequestPaceTest, AgreesWithWeightedLeastSquares) {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> at_once(1, 16), noise(-0.01, 0.01);
  RequestPace pace;
  std::vector<std::pair<double, double>> seen;
  std::vector<double> weights;
  for (int i = 1; i <= 300; ++i) {
    const double x = at_once(random), y = 0.05 + 0.01 * x + noise(random);
    pace.Add(y, x);
    const double part = 1.0 / std::min(i, 64);
    for (double& weight : weights) weight *= 1 - part;
    weights.push_back(part);
    seen.emplace_back(x, y);
    if (i < 20) continue;
    double mean_x = 0, mean_y = 0, xx = 0, xy = 0;
    for (int j = 0; j < i; ++j) mean_x += weights[j] * seen[j].first, mean_y += weights[j] * seen[j].second;
    for (int j = 0; j < i; ++j) {
      xx += weights[j] * (seen[j].first - mean_x) * (seen[j].first - mean_x);
      xy += weights[j] * (seen[j].first - mean_x) * (seen[j].second - mean_y);
    }
    for (const double n : {9.0, 20.0}) {
      ASSERT_NEAR(pace.Mean(n), mean_y + xy / xx * (n - mean_x), 1e-9) << i;
    }
  }
}

TEST(RequestPaceTest, FewExceedTheMost) {
  std::mt19937 random(2);
  std::lognormal_distribution<double> seconds(-3, 0.25);
  RequestPace pace;
  int exceed = 0;
  for (int i = 0; i < 20'000; ++i) {
    const double at_once = 1 + i % 8, took = seconds(random) * (1 + at_once / 4);
    if (i > 100) exceed += took > pace.AtMost(at_once);
    pace.Add(took, at_once);
  }
  EXPECT_LT(exceed, 400);
  EXPECT_GT(exceed, 20);
}

}  // namespace
}  // namespace clamor
