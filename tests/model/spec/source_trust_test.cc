#include "model/spec/source_trust.h"

#include <random>

#include "gtest/gtest.h"

namespace clamor {
namespace {

constexpr float kMeans[] = {0.0f, 1e-6f, 0.02f, 0.3f, 0.5f, 0.9f, 0.999f, 1.0f};

TEST(SourceTrust, StartsNeutral) {
  const SourceTrust trust;
  for (const float mean : kMeans) EXPECT_FLOAT_EQ(trust.Adjust(Source::kContext, mean), mean);
}

TEST(SourceTrust, StaysNeutralWhileAllGoesAsExpected) {
  SourceTrust trust;
  for (int i = 0; i < 1000; ++i) trust.Learn(Source::kContext, 0.5f, i % 2 == 0);
  EXPECT_NEAR(trust.Adjust(Source::kContext, 0.5f), 0.5f, 0.02f);
}

TEST(SourceTrust, MovesTowardsWhatHappens) {
  SourceTrust trust;
  float last = 0.5f;
  for (int i = 0; i < 20; ++i) {
    trust.Learn(Source::kContext, 0.5f, true);
    const float now = trust.Adjust(Source::kContext, 0.5f);
    EXPECT_GT(now, last);
    last = now;
  }
  for (int i = 0; i < 20; ++i) {
    trust.Learn(Source::kContext, 0.5f, false);
    const float now = trust.Adjust(Source::kContext, 0.5f);
    EXPECT_LT(now, last);
    last = now;
  }
  EXPECT_FLOAT_EQ(trust.Adjust(Source::kStore, 0.5f), 0.5f) << "sources are judged apart";
}

// A rate of 0.95 where 0.8 was expected: certain guesses become surer too, which a ratio of rates would not
// do.
TEST(SourceTrust, FindsTheOddsOfThisText) {
  SourceTrust trust;
  std::mt19937 random(2);
  std::bernoulli_distribution hits(0.95);
  double sum = 0;
  for (int i = 0; i < 4000; ++i) {
    trust.Learn(Source::kStore, 0.8f, hits(random));
    if (i >= 1000) sum += trust.Adjust(Source::kStore, 0.8f);
  }
  EXPECT_GT(sum / 3000, 0.9);  // the prior holds back a little
  EXPECT_LE(sum / 3000, 0.95);
  EXPECT_GT(trust.Adjust(Source::kStore, 0.97f), 0.985f);
}

TEST(SourceTrust, IsBoundedAndKeepsProbabilitiesAndTheirOrder) {
  for (const bool hit : {false, true}) {
    SourceTrust trust;
    for (int i = 0; i < 100000; ++i) trust.Learn(Source::kContext, hit ? 0.0f : 1.0f, hit);
    float last = -1;
    for (const float mean : kMeans) {
      const float adjusted = trust.Adjust(Source::kContext, mean);
      EXPECT_TRUE(adjusted >= 0 && adjusted <= 1) << mean;
      EXPECT_GT(adjusted, last);
      last = adjusted;
    }
    const float odds = trust.Adjust(Source::kContext, 0.5f) / (1 - trust.Adjust(Source::kContext, 0.5f));
    EXPECT_NEAR(hit ? odds : 1 / odds, 8, 0.01);
  }
}

TEST(SourceTrust, ForgetsWhatIsLongAgo) {
  SourceTrust trust;
  for (int i = 0; i < 1000; ++i) trust.Learn(Source::kContext, 0.5f, true);
  for (int i = 0; i < 1000; ++i) trust.Learn(Source::kContext, 0.5f, i % 2 == 0);
  EXPECT_NEAR(trust.Adjust(Source::kContext, 0.5f), 0.5f, 0.02f);
}

}  // namespace
}  // namespace clamor
