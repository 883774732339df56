#include "model/random.h"

#include <array>
#include <bit>
#include <cstdint>
#include <set>

#include "gtest/gtest.h"

namespace clamor {
namespace {

TEST(RandomTest, IsSplitMix64) {  // the author's test vector
  uint64_t state = 1234567;
  for (const uint64_t value : {6457827717110365317u, 3203168211198807973u, 9817491932198370423u,
                               4593380528125082431u, 16408922859458223821u}) {
    EXPECT_EQ(NextRandom(state), value);
  }
}

TEST(RandomTest, BelowReachesEveryValueEquallyOften) {
  uint64_t state = 3;
  for (uint64_t n = 1; n <= 9; ++n) {
    constexpr int kDraws = 90000;
    std::array<int, 9> counts{};
    for (int i = 0; i < kDraws; ++i) {
      const uint64_t value = RandomBelow(state, n);
      ASSERT_LT(value, n);
      ++counts[value];
    }
    for (uint64_t value = 0; value < n; ++value) {
      EXPECT_NEAR(counts[value], 1.0 * kDraws / n, 700) << n;  // over six standard deviations
    }
  }
}

TEST(RandomTest, MixedSeedsAreApart) {
  std::set<uint64_t> states, first_values;
  for (uint64_t a = 0; a < 32; ++a) {
    for (uint64_t b = 0; b < 32; ++b) {
      for (uint64_t c = 0; c < 32; ++c) {
        uint64_t state = MixSeed(a, b, c);
        states.insert(state);
        first_values.insert(NextRandom(state));
      }
    }
  }
  EXPECT_EQ(states.size(), 32u * 32 * 32);
  EXPECT_EQ(first_values.size(), 32u * 32 * 32);
}

// One bit of an argument turns about half of the state's.
TEST(RandomTest, MixingSpreadsEveryBit) {
  for (int argument = 0; argument < 3; ++argument) {
    int64_t turned = 0;
    for (uint64_t base = 0; base < 64; ++base) {
      for (int bit = 0; bit < 64; ++bit) {
        std::array<uint64_t, 3> a = {base, base, base}, b = a;
        b[argument] ^= uint64_t{1} << bit;
        turned += std::popcount(MixSeed(a[0], a[1], a[2]) ^ MixSeed(b[0], b[1], b[2]));
      }
    }
    EXPECT_NEAR(turned / (64. * 64), 32, 0.5) << argument;
  }
}

}  // namespace
}  // namespace clamor
