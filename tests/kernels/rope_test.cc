#include "kernels/rope.h"

#include <chrono>
#include <cmath>

#include "gtest/gtest.h"
#include "tests/kernels/on_target.h"
#include "tests/kernels/reference.h"

namespace clamor::kernels {
namespace {

class RopeTest : public OnTarget {
 protected:
  static std::vector<double> Frequencies(int half, double base) {
    std::vector<double> f(half);
    for (int i = 0; i < half; ++i) f[i] = std::pow(base, -static_cast<double>(i) / half);
    return f;
  }
};

// Rounding once to fp32 hides errors of the double sine except next to a tie, so nearly every entry must be
// equal to the rounded libm value, and none may be further than one float away.
TEST_P(RopeTest, TableMatchesLibm) {
  for (int half : {4, 12, 32, 33}) {
    const std::vector<double> f = Frequencies(half, 1e6);
    const RopeTable table(f, 3000);
    int64_t different = 0;
    for (int64_t p = 0; p < table.positions(); ++p) {
      for (int i = 0; i < half; ++i) {
        const double angle = static_cast<double>(p) * f[i];
        for (const auto& [actual, exact] :
             {std::pair(table.cos(p)[i], std::cos(angle)), std::pair(table.sin(p)[i], std::sin(angle))}) {
          const float expected = static_cast<float>(exact);
          different += actual != expected;
          ASSERT_LE(std::abs(double{actual} - exact), 6.1e-8) << p << " " << i;
        }
      }
    }
    EXPECT_EQ(different, 0);
  }
}

TEST_P(RopeTest, LargeAnglesStayAccurate) {
  // Frequencies above 1 reach |x| = 1e6 with few positions.
  const std::vector<double> f = {900.1234567,        333.3333333,        1000.0,
                                 1.5707963267948966, 0.7853981633974483, 22.0 / 7};
  const RopeTable table(f, 1001);
  for (int64_t p = 0; p < table.positions(); ++p) {
    for (size_t i = 0; i < f.size(); ++i) {
      const double angle = static_cast<double>(p) * f[i];
      EXPECT_EQ(table.cos(p)[i], static_cast<float>(std::cos(angle))) << angle;
      EXPECT_EQ(table.sin(p)[i], static_cast<float>(std::sin(angle))) << angle;
    }
  }
}

TEST_P(RopeTest, TableHasTheSameBitsOnEveryTarget) {
  const std::vector<double> f = Frequencies(37, 10000.0);
  const RopeTable here(f, 5000);
  ASSERT_TRUE(SetCpuTarget(CpuTarget::kScalar).ok());
  const RopeTable scalar(f, 5000);
  EXPECT_TRUE(SameBits(scalar.cos(0), here.cos(0), 5000 * 37));
  EXPECT_TRUE(SameBits(scalar.sin(0), here.sin(0), 5000 * 37));
}

TEST_P(RopeTest, RotatesEveryHeadAtItsPosition) {
  for (int half : {4, 12, 16, 32, 40, 64}) {
    const RopeTable table(Frequencies(half, 10000.0), 100);
    for (int64_t rows : {0, 1, 2, 33}) {
      for (int threads : {1, 3}) {
        constexpr int kHeads = 3;
        const int64_t stride = kHeads * 2 * half + 7;
        std::vector<float> x = Floats(rows * stride);
        std::vector<int32_t> positions(rows);
        for (int32_t& p : positions) p = Below(100);
        std::vector<float> expected = x;
        for (int64_t r = 0; r < rows; ++r) {
          for (int h = 0; h < kHeads; ++h) {
            for (int i = 0; i < half; ++i) {
              const int64_t at = r * stride + h * 2 * half + i;
              const float a = x[at], b = x[at + half];
              const float c = table.cos(positions[r])[i], s = table.sin(positions[r])[i];
              expected[at] = std::fma(a, c, -(b * s));
              expected[at + half] = std::fma(b, c, a * s);
            }
          }
        }
        ThreadPool pool(threads);
        Rope(x.data(), rows, stride, kHeads, positions.data(), table, pool);
        EXPECT_TRUE(SameBits(expected, x)) << half;
      }
    }
  }
}

CLAMOR_ON_EVERY_TARGET(RopeTest);

}  // namespace
}  // namespace clamor::kernels
