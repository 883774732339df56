#include "kernels/adamw.h"

#include <cmath>

#include "gtest/gtest.h"
#include "tests/kernels/on_target.h"
#include "tests/kernels/reference.h"

namespace clamor::kernels {
namespace {

class AdamWTest : public OnTarget {};

TEST_P(AdamWTest, FollowsTheFormula) {
  for (int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    for (const int64_t n : {0, 1, 15, 16, 17, 10000}) {
      const AdamWStep step = {.learning_rate = 0.01f,
                              .beta1 = 0.9f,
                              .beta2 = 0.95f,
                              .epsilon = 1e-8f,
                              .weight_decay = 0.1f,
                              .correction1 = 0.19f,
                              .correction2_root = 0.3f,
                              .gradient_scale = 0.5f};
      const std::vector<float> gradients = Floats(n);
      std::vector<float> p = Floats(n), m = Floats(n), v = Floats(n, 0.0f, 1.0f);
      std::vector<float> expected_p = p, expected_m = m, expected_v = v;
      for (int64_t i = 0; i < n; ++i) {
        const float g = gradients[i] * 0.5f;
        expected_m[i] = std::fma(1.0f - 0.9f, g - m[i], m[i]);
        expected_v[i] = std::fma((1.0f - 0.95f) * g, g, 0.95f * v[i]);
        const float root = std::sqrt(expected_v[i]) / 0.3f + 1e-8f;
        expected_p[i] = std::fma(-(0.01f / 0.19f), expected_m[i] / root, p[i] * (1.0f - 0.01f * 0.1f));
      }
      AdamW(step, gradients.data(), p.data(), m.data(), v.data(), n, pool);
      EXPECT_TRUE(SameBits(expected_p, p)) << n;
      EXPECT_TRUE(SameBits(expected_m, m)) << n;
      EXPECT_TRUE(SameBits(expected_v, v)) << n;
    }
  }
}

TEST_P(AdamWTest, SumOfSquaresGoesByPieces) {
  for (int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    for (const int64_t n : {0, 1, 17, 4096, 4097, 30000}) {
      const std::vector<float> x = Floats(n);
      double expected = 0;
      for (int64_t first = 0; first < n; first += 4096) {
        reference::PartialSums sums;
        for (int64_t i = first; i < std::min(n, first + 4096); ++i) sums.AddSquare(i - first, x[i]);
        expected += sums.Fold();
      }
      EXPECT_EQ(SumOfSquares(x.data(), n, pool), expected) << n;
    }
  }
}

CLAMOR_ON_EVERY_TARGET(AdamWTest);

}  // namespace
}  // namespace clamor::kernels
