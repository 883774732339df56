#include "services/gateway/suspicion.h"

#include <gtest/gtest.h>

namespace clamor {
namespace {

TEST(SuspicionTest, TwoLossesAtTheSamePlace) {
  for (const uint64_t further : {uint64_t{0}, uint64_t{1}, Suspicion::kNear - 1}) {
    Suspicion suspicion;
    EXPECT_FALSE(suspicion.Lost(true, 7));
    EXPECT_TRUE(suspicion.Lost(true, 7 + further)) << further;
  }
}

TEST(SuspicionTest, WhoGoesOnWellBeyondIsNotToBlame) {
  Suspicion suspicion;
  EXPECT_FALSE(suspicion.Lost(true, 7));
  EXPECT_FALSE(suspicion.Lost(true, 7 + Suspicion::kNear));
  EXPECT_TRUE(suspicion.Lost(true, 8 + Suspicion::kNear)) << "but for this place";
}

TEST(SuspicionTest, WhoWaitsInAQueueIsNotToBlame) {
  Suspicion suspicion;
  EXPECT_FALSE(suspicion.Lost(false, 0));
  EXPECT_FALSE(suspicion.Lost(false, 0));
  EXPECT_FALSE(suspicion.Lost(true, 0));
  EXPECT_TRUE(suspicion.Lost(true, 0));
}

TEST(SuspicionTest, NobodyLosesWorkersWithoutEnd) {
  for (const bool admitted : {false, true}) {
    Suspicion suspicion;
    for (uint64_t i = 0; i < Suspicion::kMostLosses; ++i) EXPECT_FALSE(suspicion.Lost(admitted, 1000 * i));
    EXPECT_TRUE(suspicion.Lost(admitted, 1'000'000));
  }
}

}  // namespace
}  // namespace clamor
