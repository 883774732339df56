#include "kernels/float_formats.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"

namespace clamor::kernels {
namespace {

constexpr uint16_t kSign = 0x8000;

// Every finite value of a format and whatever lies around the middle to its next: `infinity` is the format's
// own, one above its largest finite value.
void CheckRounding(float (*widen)(uint16_t), uint16_t (*narrow)(float), uint16_t infinity,
                   float from_here_on) {
  for (uint16_t bits = 0; bits < infinity; ++bits) {
    const float value = widen(bits);
    ASSERT_EQ(narrow(value), bits);
    ASSERT_EQ(narrow(-value), bits | kSign);
    const double next = bits + 1 < infinity ? widen(bits + 1) : 2 * double{from_here_on} - value;
    ASSERT_GT(next, value);
    const float middle = static_cast<float>((double{value} + next) / 2);  // exact: fp32 has more digits
    const uint16_t up = static_cast<uint16_t>(bits + 1), even = bits % 2 == 0 ? bits : up;
    ASSERT_EQ(narrow(middle), even) << bits;
    ASSERT_EQ(narrow(-middle), even | kSign) << bits;
    ASSERT_EQ(narrow(std::nextafter(middle, 0.0f)), bits) << bits;
    ASSERT_EQ(narrow(std::nextafter(middle, std::numeric_limits<float>::infinity())), up) << bits;
  }
  EXPECT_EQ(narrow(std::numeric_limits<float>::infinity()), infinity);
  EXPECT_EQ(narrow(-std::numeric_limits<float>::infinity()), infinity | kSign);
  for (const uint32_t nan : {0x7f800001u, 0x7fc00000u, 0x7fffffffu, 0xff800001u}) {
    EXPECT_TRUE(std::isnan(widen(narrow(std::bit_cast<float>(nan))))) << nan;
  }
}

// Subnormal numbers are among them.
TEST(Fp16, EveryValueAndEveryMiddle) { CheckRounding(FromF16, ToF16, 0x7c00, 65520.0f); }

TEST(Fp16, WidensToWhatTheFormatSays) {
  EXPECT_EQ(FromF16(0x0001), std::ldexp(1.0f, -24));
  EXPECT_EQ(FromF16(0x03ff), std::ldexp(1023.0f, -24));
  EXPECT_EQ(FromF16(0x0400), std::ldexp(1.0f, -14));
  EXPECT_EQ(FromF16(0x3555), 1365.0f / 4096);
  EXPECT_EQ(FromF16(0x7bff), 65504.0f);
  EXPECT_TRUE(std::signbit(FromF16(0x8000)));
}

TEST(Bf16, EveryValueAndEveryMiddle) { CheckRounding(FromBF16, ToBF16, 0x7f80, 0x1.ffp127f); }

}  // namespace
}  // namespace clamor::kernels
