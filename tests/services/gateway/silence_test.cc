#include "services/gateway/silence.h"

#include <gtest/gtest.h>

namespace clamor {
namespace {

Silence::Time At(int milliseconds) {
  return Silence::Time(std::chrono::hours(1) + std::chrono::milliseconds(milliseconds));
}
constexpr absl::Duration kLook = Silence::kBetweenLooks;

TEST(SilenceTest, IsOverWhenItHasLastedForSoLong) {
  Silence silence(absl::Milliseconds(120));
  EXPECT_EQ(silence.Look(At(0), At(-5000)), kLook) << "it begins with the first look";
  EXPECT_EQ(silence.Look(At(50), At(-5000)), kLook);
  EXPECT_EQ(silence.Look(At(100), At(-5000)), absl::Milliseconds(20));
  EXPECT_EQ(silence.Look(At(120), At(-5000)), absl::ZeroDuration());
}

TEST(SilenceTest, AnySignOfLifeEndsIt) {
  Silence silence(absl::Milliseconds(120));
  silence.Look(At(0), At(0));
  silence.Look(At(50), At(0));
  EXPECT_EQ(silence.Look(At(100), At(80)), kLook);
  EXPECT_EQ(silence.Look(At(150), At(80)), kLook);
  EXPECT_EQ(silence.Look(At(190), At(80)), absl::Milliseconds(10)) << "a look may come early";
  EXPECT_EQ(silence.Look(At(200), At(201)), kLook) << "heard after this look's time was taken";
  EXPECT_EQ(silence.Look(At(250), At(201)), kLook);
}

TEST(SilenceTest, WhoStandsStillHearsNobody) {
  Silence silence(absl::Milliseconds(120));
  silence.Look(At(0), At(0));
  EXPECT_EQ(silence.Look(At(10'000), At(0)), kLook);
  EXPECT_EQ(silence.Look(At(20'000), At(0)), absl::Milliseconds(20));
  EXPECT_EQ(silence.Look(At(30'000), At(20'001)), kLook);
  EXPECT_EQ(silence.Look(At(40'000), At(20'001)), kLook);
  EXPECT_EQ(silence.Look(At(50'000), At(20'001)), absl::ZeroDuration())
      << "but it looks often enough to find out";
}

}  // namespace
}  // namespace clamor
