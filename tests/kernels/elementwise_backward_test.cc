#include "kernels/elementwise_backward.h"

#include <cmath>

#include "gtest/gtest.h"
#include "kernels/elementwise.h"
#include "kernels/rope.h"
#include "tests/kernels/central_differences.h"
#include "tests/kernels/on_target.h"
#include "tests/kernels/reference.h"

namespace clamor::kernels {
namespace {

constexpr float kEps = 1e-5f;

class ElementwiseBackwardTest : public OnTarget {};

TEST_P(ElementwiseBackwardTest, RmsNormRowsAndHeads) {
  for (int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    for (const int heads : {1, 3}) {
      for (const int64_t n : {1, 8, 12, 16, 17, 64, 300}) {
        for (const int64_t rows : {0, 1, 40}) {
          const int64_t x_stride = heads * n + 3, dy_stride = heads * n + 1;
          const std::vector<float> x = Floats(rows * x_stride), weight = Floats(n);
          std::vector<float> dy = Floats(rows * dy_stride), dweight = Floats(n);
          std::vector<float> expected_dy = dy, expected_dweight = dweight;
          for (int64_t r = 0; r < rows; ++r) {
            for (int h = 0; h < heads; ++h) {
              reference::RmsNormBackward(&x[r * x_stride + h * n], n, weight.data(), kEps,
                                         &expected_dy[r * dy_stride + h * n], expected_dweight.data());
            }
          }
          std::vector<float> without = dy;
          RmsNormBackward(x.data(), x_stride, rows, heads, n, weight.data(), kEps, dy.data(), dy_stride,
                          dweight.data(), pool);
          EXPECT_TRUE(SameBits(expected_dy, dy)) << n;
          EXPECT_TRUE(SameBits(expected_dweight, dweight)) << n;
          RmsNormBackward(x.data(), x_stride, rows, heads, n, weight.data(), kEps, without.data(), dy_stride,
                          nullptr, pool);
          EXPECT_TRUE(SameBits(expected_dy, without)) << n;
        }
      }
    }
  }
}

TEST_P(ElementwiseBackwardTest, RmsNormAgreesWithCentralDifferences) {
  ThreadPool pool(1);
  constexpr int64_t kN = 19;
  const std::vector<float> x = Floats(kN), weight = Floats(kN), seen = Floats(kN);
  const auto f = [&](const std::vector<double>& in, const std::vector<double>& w) {
    double squares = 0, sum = 0;
    for (const double v : in) squares += v * v;
    for (int64_t i = 0; i < kN; ++i) sum += seen[i] * w[i] * in[i] / std::sqrt(squares / kN + kEps);
    return sum;
  };
  std::vector<float> dx = seen, dweight(kN);
  RmsNormBackward(x.data(), kN, 1, 1, kN, weight.data(), kEps, dx.data(), kN, dweight.data(), pool);
  EXPECT_TRUE(Near(CentralDifferences([&](const auto& in) { return f(in, Doubles(weight)); }, Doubles(x)),
                   dx.data()));
  EXPECT_TRUE(Near(CentralDifferences([&](const auto& w) { return f(Doubles(x), w); }, Doubles(weight)),
                   dweight.data()));
}

TEST_P(ElementwiseBackwardTest, SiluGate) {
  for (int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    for (const int64_t n : {1, 15, 16, 17, 500}) {
      constexpr int64_t kRows = 5;
      std::vector<float> gate_up = Floats(kRows * 2 * n, -120.0f, 120.0f);
      const std::vector<float> d_out = Floats(kRows * n);
      std::vector<float> expected(gate_up.size());
      for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t i = 0; i < n; ++i) {
          const float g = gate_up[r * 2 * n + i], u = gate_up[r * 2 * n + n + i], d = d_out[r * n + i];
          const float denominator = 1.0f + Exp(0.0f - g), q = 1.0f / denominator;
          expected[r * 2 * n + i] = d * u * (q * std::fma(g, 1.0f - q, 1.0f));
          expected[r * 2 * n + n + i] = d * (g / denominator);
        }
      }
      SiluGateBackward(gate_up.data(), d_out.data(), kRows, n, pool);
      EXPECT_TRUE(SameBits(expected, gate_up)) << n;
    }
  }
}

TEST_P(ElementwiseBackwardTest, SiluGateAgreesWithCentralDifferences) {
  ThreadPool pool(1);
  constexpr int64_t kN = 18;
  std::vector<float> gate_up = Floats(2 * kN, -4.0f, 4.0f);
  const std::vector<float> seen = Floats(kN);
  const std::vector<double> expected = CentralDifferences(
      [&](const std::vector<double>& in) {
        double sum = 0;
        for (int64_t i = 0; i < kN; ++i) sum += seen[i] * in[kN + i] * in[i] / (1 + std::exp(-in[i]));
        return sum;
      },
      Doubles(gate_up));
  SiluGateBackward(gate_up.data(), seen.data(), 1, kN, pool);
  EXPECT_TRUE(Near(expected, gate_up.data()));
}

TEST_P(ElementwiseBackwardTest, EmbeddingAddsInRowOrder) {
  for (int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    for (const int64_t n : {1, 17, 200}) {
      constexpr int64_t kRows = 60, kVocab = 7;
      std::vector<int32_t> ids(kRows);
      for (int32_t& id : ids) id = Below(kVocab);
      const std::vector<float> d = Floats(kRows * n);
      std::vector<float> gradient = Floats(kVocab * n), expected = gradient;
      for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t i = 0; i < n; ++i) expected[ids[r] * n + i] += d[r * n + i];
      }
      AddEmbeddingGradient(ids.data(), d.data(), kRows, n, gradient.data(), pool);
      EXPECT_TRUE(SameBits(expected, gradient));
    }
  }
}

// A rotation's gradient is the rotation back.
TEST_P(ElementwiseBackwardTest, RopeAgreesWithCentralDifferences) {
  ThreadPool pool(2);
  constexpr int kHeads = 2, kHalf = 6;
  const std::vector<double> frequencies = {1.0, 0.5, 0.2, 0.1, 0.03, 0.001};
  const RopeTable table(frequencies, 30);
  const std::vector<int32_t> positions = {0, 7, 29};
  const int64_t stride = kHeads * 2 * kHalf;
  const std::vector<float> x = Floats(positions.size() * stride), seen = Floats(x.size());
  const std::vector<double> expected = CentralDifferences(
      [&](const std::vector<double>& in) {
        double sum = 0;
        for (size_t i = 0; i < in.size(); ++i) {
          const size_t row = i / stride, at = i % (2 * kHalf);
          if (at >= kHalf) continue;
          const double angle = positions[row] * frequencies[at], a = in[i], b = in[i + kHalf];
          sum += seen[i] * (a * std::cos(angle) - b * std::sin(angle));
          sum += seen[i + kHalf] * (b * std::cos(angle) + a * std::sin(angle));
        }
        return sum;
      },
      Doubles(x));
  std::vector<float> dx = seen;
  RopeBackward(dx.data(), positions.size(), stride, kHeads, positions.data(), table, pool);
  EXPECT_TRUE(Near(expected, dx.data()));
}

CLAMOR_ON_EVERY_TARGET(ElementwiseBackwardTest);

}  // namespace
}  // namespace clamor::kernels
