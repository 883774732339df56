#include "model/spec/calibration.h"

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace clamor {
namespace {

using Key = Calibration::Key;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr int kInts[] = {-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 16, 32, 64, 1000, INT_MAX};
constexpr uint32_t kCounts[] = {0, 1, 2, 3, 9, 10, 30, 100, UINT32_MAX};
constexpr float kLogs[] = {0,  -0.05f, -0.2f, -0.5f,      -1,        -1.5f, -2,
                           -3, -5,     -100,  -kInfinity, kInfinity, kNaN,  1};

// All keys that each kind of evidence can have.
std::vector<std::set<Key>> KeysByKind() {
  std::vector<std::set<Key>> kinds(6);
  for (const int a : kInts) {
    for (const int depth : kInts) {
      for (const float log : kLogs) {
        if (a >= 0 && depth >= 0) {
          kinds[0].insert(Calibration::Jacobi(a, depth, log, true));
          kinds[0].insert(Calibration::Jacobi(a, depth, log, false));
          kinds[1].insert(Calibration::Adjacency(a, log, depth));
        }
        kinds[2].insert(Calibration::Agreement(a, std::exp(log)));
      }
      for (const uint32_t count : kCounts) {
        for (const uint32_t total : kCounts) {
          kinds[3].insert(Calibration::Context(a, count, total, depth));
          kinds[4].insert(Calibration::Store(a, count, total, depth));
        }
      }
      kinds[5].insert(Calibration::Recycled(a, depth));
    }
  }
  return kinds;
}

TEST(Calibration, KindsOfEvidenceHaveRangesOfTheirOwn) {
  const auto kinds = KeysByKind();
  std::set<Key> all;
  size_t sum = 0;
  for (const auto& keys : kinds) {
    // Contiguous: the kind's range is used in full, and nothing else.
    EXPECT_EQ(keys.size(), static_cast<size_t>(*keys.rbegin() - *keys.begin() + 1));
    all.insert(keys.begin(), keys.end());
    sum += keys.size();
  }
  EXPECT_EQ(all.size(), sum) << "two kinds share a key";
  EXPECT_EQ(*all.begin(), 0);
  EXPECT_EQ(*all.rbegin() + 1u, all.size());
}

TEST(Calibration, AKeyNamesItsSource) {
  constexpr Source kOfKind[] = {Source::kJacobi,  Source::kAdjacency, Source::kNone,
                                Source::kContext, Source::kStore,     Source::kRecycled};
  const auto kinds = KeysByKind();
  for (size_t i = 0; i < kinds.size(); ++i) {
    for (const Key key : kinds[i]) EXPECT_EQ(Calibration::SourceOf(key), kOfKind[i]) << key;
  }
}

TEST(Calibration, PriorsAreProbabilitiesAndOrdered) {
  const Calibration calibration;
  for (const auto& keys : KeysByKind()) {
    for (const Key key : keys) {
      EXPECT_GT(calibration.Mean(key), 0) << key;
      EXPECT_LT(calibration.Mean(key), 1) << key;
    }
  }
  // More evidence of a kind never starts out lower.
  EXPECT_GT(calibration.Mean(Calibration::Jacobi(0, 0, -0.01f, true)),
            calibration.Mean(Calibration::Jacobi(0, 0, -3, true)));
  EXPECT_GT(calibration.Mean(Calibration::Jacobi(0, 0, -1, true)),
            calibration.Mean(Calibration::Jacobi(3, 0, -1, true)));
  EXPECT_GT(calibration.Mean(Calibration::Jacobi(1, 0, -1, true)),
            calibration.Mean(Calibration::Jacobi(1, 0, -1, false)));
  EXPECT_GT(calibration.Mean(Calibration::Context(12, 5, 5, 0)),
            calibration.Mean(Calibration::Context(2, 5, 5, 0)));
  EXPECT_GT(calibration.Mean(Calibration::Store(5, 9, 10, 0)),
            calibration.Mean(Calibration::Store(5, 1, 10, 0)));
  EXPECT_GT(calibration.Mean(Calibration::Recycled(2, 0)), calibration.Mean(Calibration::Recycled(1, 0)));
  EXPECT_GT(calibration.Mean(Calibration::Agreement(2, 0.5f)), 0.5f);
}

TEST(Calibration, ConvergesToTheTrueRate) {
  std::mt19937 random(1);
  const Key key = Calibration::Context(3, 1, 2, 1), other = Calibration::Context(3, 1, 1, 1);
  for (const double rate : {0.02, 0.3, 0.9}) {
    Calibration calibration;
    const float before = calibration.Mean(other);
    for (int i = 0; i < 4000; ++i) calibration.Learn(key, std::bernoulli_distribution(rate)(random));
    EXPECT_NEAR(calibration.Mean(key), rate, 0.04);
    EXPECT_EQ(calibration.Mean(other), before) << "keys learn apart";
  }
}

TEST(Calibration, EachTrialMovesTheMeanTowardsItself) {
  Calibration calibration;
  const Key key = Calibration::Adjacency(2, -1, 1);
  for (int i = 0; i < 100; ++i) {
    const float before = calibration.Mean(key);
    calibration.Learn(key, i % 3 == 0);
    EXPECT_EQ(calibration.Mean(key) > before, i % 3 == 0);
  }
}

// Half-life of 2000 trials: after 2000 misses, what 100000 hits built is worth about half.
TEST(Calibration, OldTrialsFade) {
  Calibration calibration;
  const Key key = Calibration::Jacobi(0, 0, -0.01f, true);
  for (int i = 0; i < 100000; ++i) calibration.Learn(key, true);
  EXPECT_GT(calibration.Mean(key), 0.99f);
  for (int i = 0; i < 2000; ++i) calibration.Learn(key, false);
  EXPECT_NEAR(calibration.Mean(key), 0.5f, 0.02f);
  for (int i = 0; i < 20000; ++i) calibration.Learn(key, false);
  EXPECT_LT(calibration.Mean(key), 0.01f);
}

}  // namespace
}  // namespace clamor
