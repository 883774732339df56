#include "services/worker/speculation_guard.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>

#include "gtest/gtest.h"

namespace clamor {
namespace {

struct Decoded {
  int32_t plain = 0;   // steps that would have drafted
  double seconds = 0;  // all in all
  double tokens = 0;
};

// `steps` steps of a machine where a drafting step costs `cost` plain ones and emits 1 to 3 tokens for each.
Decoded Decode(SpeculationGuard& guard, int steps, double cost, int32_t sequences = 1) {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> noise(0.8, 1.2);
  Decoded run;
  for (int i = 0; i < steps; ++i) {
    const bool plain = guard.RunPlain(sequences);
    const double seconds = noise(random) * (plain ? 1 : cost);
    int32_t tokens = 0;
    for (int32_t s = 0; s < sequences; ++s) tokens += plain ? 1 : 1 + static_cast<int32_t>(random() % 3);
    guard.Add(sequences, !plain, seconds, tokens);
    run.plain += plain;
    run.seconds += seconds;
    run.tokens += tokens;
  }
  return run;
}

TEST(SpeculationGuard, NothingIsKnownBeforeBothKindsWereSeen) {
  SpeculationGuard guard;
  EXPECT_TRUE(std::isnan(guard.ratio()));
  guard.Add(3, true, 1, 6);
  EXPECT_TRUE(std::isnan(guard.ratio()));
  guard.Add(9, false, 1, 9);  // of another size
  EXPECT_TRUE(std::isnan(guard.ratio()));
  guard.Add(2, false, 1, 2);
  EXPECT_DOUBLE_EQ(guard.ratio(), 3);
}

TEST(SpeculationGuard, WhereItPaysOneStepInSixtyFourIsAControl) {
  SpeculationGuard guard;
  const Decoded run = Decode(guard, 64 * 100, 1.2);
  EXPECT_EQ(run.plain, 100);
  EXPECT_NEAR(guard.ratio(), 2 / 1.2, 0.15);
}

TEST(SpeculationGuard, WhereItDoesNotPayItNearlyStops) {
  for (const int32_t sequences : {1, 5}) {
    SpeculationGuard guard;
    Decode(guard, 10000, 2.6, sequences);
    const Decoded run = Decode(guard, 20000, 2.6, sequences);
    EXPECT_GT(run.plain, 18000);
    EXPECT_GT(run.tokens / run.seconds, 0.97 * sequences) << "plain decoding makes one a second for each";
  }
}

TEST(SpeculationGuard, ItComesBackWhenItPaysAgain) {
  SpeculationGuard guard;
  Decode(guard, 20000, 2.6);
  Decode(guard, 6000, 1.2);
  const Decoded run = Decode(guard, 6400, 1.2);
  EXPECT_EQ(run.plain, 100);
}

TEST(SpeculationGuard, SizesAreJudgedApart) {
  SpeculationGuard guard;
  int32_t plain_one = 0, plain_many = 0;
  for (int i = 0; i < 200; ++i) {
    plain_one += Decode(guard, 64, 1.2, 1).plain;
    plain_many += Decode(guard, 64, 2.6, 16).plain;
  }
  EXPECT_LT(plain_one, 250);
  EXPECT_GT(plain_many, 8000);
}

}  // namespace
}  // namespace clamor
