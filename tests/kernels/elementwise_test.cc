#include "kernels/elementwise.h"

#include <bit>
#include <cmath>

#include "gtest/gtest.h"
#include "tests/kernels/on_target.h"
#include "tests/kernels/reference.h"

namespace clamor::kernels {
namespace {

class ElementwiseTest : public OnTarget {};

TEST_P(ElementwiseTest, RmsNormInEverySizeAndInPlace) {
  for (int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    for (int64_t n : {1, 7, 8, 15, 16, 17, 64, 100, 896, 5000}) {
      for (int64_t rows : {0, 1, 2, 5}) {
        std::vector<float> x = Floats(rows * n, -3.0f, 3.0f);
        const std::vector<float> weight = Floats(n);
        std::vector<float> expected(rows * n), actual(rows * n);
        for (int64_t r = 0; r < rows; ++r) {
          reference::RmsNorm(&x[r * n], n, weight.data(), 1e-6f, &expected[r * n]);
        }
        RmsNorm(x.data(), rows, n, weight.data(), 1e-6f, actual.data(), pool);
        EXPECT_TRUE(SameBits(expected, actual)) << n;
        RmsNorm(x.data(), rows, n, weight.data(), 1e-6f, x.data(), pool);
        EXPECT_TRUE(SameBits(expected, x)) << n;
      }
    }
  }
}

TEST_P(ElementwiseTest, RmsNormHeadsTouchesTheHeadsOnly) {
  ThreadPool pool(2);
  constexpr int kHeads = 3;
  for (int dim : {8, 16, 24, 64, 128}) {
    for (int64_t rows : {0, 1, 30}) {
      const int64_t stride = kHeads * dim + 5;
      std::vector<float> x = Floats(rows * stride);
      const std::vector<float> weight = Floats(dim);
      std::vector<float> expected = x;
      for (int64_t r = 0; r < rows; ++r) {
        for (int h = 0; h < kHeads; ++h) {
          const int64_t at = r * stride + h * dim;
          reference::RmsNorm(&x[at], dim, weight.data(), 1e-5f, &expected[at]);
        }
      }
      RmsNormHeads(x.data(), rows, stride, kHeads, dim, weight.data(), 1e-5f, pool);
      EXPECT_TRUE(SameBits(expected, x)) << dim;
    }
  }
}

TEST_P(ElementwiseTest, Add) {
  for (int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    for (int64_t n : {0, 1, 15, 16, 17, 4095, 4097, 20000}) {
      std::vector<float> x = Floats(n), y = Floats(n), expected(n), sum(n);
      for (int64_t i = 0; i < n; ++i) expected[i] = x[i] + y[i];
      Add(x.data(), y.data(), n, sum.data(), pool);
      EXPECT_TRUE(SameBits(expected, sum)) << n;
      Add(x.data(), y.data(), n, x.data(), pool);
      EXPECT_TRUE(SameBits(expected, x)) << n;
    }
  }
}

TEST_P(ElementwiseTest, SiluGate) {
  for (int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    for (int64_t n : {1, 15, 16, 17, 511, 513, 2000}) {
      for (int64_t rows : {0, 1, 4}) {
        const std::vector<float> gate_up = Floats(rows * 2 * n, -120.0f, 120.0f);
        std::vector<float> expected(rows * n), actual(rows * n);
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t i = 0; i < n; ++i) {
            expected[r * n + i] = reference::Silu(gate_up[r * 2 * n + i]) * gate_up[r * 2 * n + n + i];
          }
        }
        SiluGate(gate_up.data(), rows, n, actual.data(), pool);
        EXPECT_TRUE(SameBits(expected, actual)) << n;
      }
    }
  }
}

// Distance in representable floats; the two have the same sign.
int64_t UlpsBetween(float a, double exact) {
  return std::llabs(int64_t{std::bit_cast<int32_t>(a)} - std::bit_cast<int32_t>(static_cast<float>(exact)));
}

// A prime step walks through all exponents and many fractions.
constexpr uint32_t kStep = 10007;

TEST_P(ElementwiseTest, ExpIsWithinTwoUlp) {
  int64_t worst = 0;
  for (uint32_t sign : {0u, 0x80000000u}) {
    for (uint32_t bits = 0; bits < 0x42d00000; bits += kStep) {  // up to 104
      const float x = std::bit_cast<float>(bits | sign);
      worst = std::max(worst, UlpsBetween(Exp(x), std::exp(static_cast<double>(x))));
    }
  }
  EXPECT_LE(worst, 2);
}

TEST_P(ElementwiseTest, ExpAtTheEdges) {
  EXPECT_EQ(Exp(0.0f), 1.0f);
  EXPECT_EQ(Exp(-0.0f), 1.0f);
  EXPECT_EQ(Exp(-104.001f), 0.0f);
  EXPECT_EQ(Exp(-1e30f), 0.0f);
  EXPECT_EQ(Exp(-reference::kInfinity), 0.0f);
  EXPECT_GT(Exp(-103.0f), 0.0f);
  EXPECT_TRUE(std::isfinite(Exp(88.72f)));
  EXPECT_EQ(Exp(88.8f), reference::kInfinity);
  EXPECT_EQ(Exp(reference::kInfinity), reference::kInfinity);
  EXPECT_TRUE(std::isnan(Exp(std::nanf(""))));
}

// The twins elsewhere use Exp itself; here is what ties it to one set of bits.
TEST_P(ElementwiseTest, ExpHasTheSameBitsOnEveryTarget) {
  std::vector<float> here, scalar;
  for (uint32_t bits = 0; bits < 0x7f800000; bits += 30011) {
    here.push_back(Exp(std::bit_cast<float>(bits)));
    here.push_back(Exp(std::bit_cast<float>(bits | 0x80000000)));
  }
  ASSERT_TRUE(SetCpuTarget(CpuTarget::kScalar).ok());
  for (uint32_t bits = 0; bits < 0x7f800000; bits += 30011) {
    scalar.push_back(Exp(std::bit_cast<float>(bits)));
    scalar.push_back(Exp(std::bit_cast<float>(bits | 0x80000000)));
  }
  EXPECT_TRUE(SameBits(scalar, here));
}

TEST_P(ElementwiseTest, LogIsWithinTwoUlp) {
  int64_t worst = 0;
  for (uint32_t bits = 1; bits < 0x7f800000; bits += kStep) {
    const float x = std::bit_cast<float>(bits);
    if (x == 1.0f) continue;
    worst = std::max(worst, UlpsBetween(Log(x), std::log(static_cast<double>(x))));
  }
  for (uint32_t near_one = 0x3f7f0000; near_one < 0x3f810000; near_one += 7) {
    const float x = std::bit_cast<float>(near_one);
    worst = std::max(worst, UlpsBetween(Log(x), std::log(static_cast<double>(x))));
  }
  EXPECT_LE(worst, 2);
}

TEST_P(ElementwiseTest, LogAtTheEdges) {
  EXPECT_EQ(Log(1.0f), 0.0f);
  EXPECT_EQ(Log(0.0f), -reference::kInfinity);
  EXPECT_EQ(Log(reference::kInfinity), reference::kInfinity);
  EXPECT_TRUE(std::isnan(Log(-1.0f)));
  EXPECT_TRUE(std::isnan(Log(std::nanf(""))));
}

CLAMOR_ON_EVERY_TARGET(ElementwiseTest);

}  // namespace
}  // namespace clamor::kernels
