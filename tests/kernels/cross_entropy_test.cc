#include "kernels/cross_entropy.h"

#include <cmath>

#include "gtest/gtest.h"
#include "kernels/elementwise.h"
#include "tests/kernels/central_differences.h"
#include "tests/kernels/on_target.h"
#include "tests/kernels/reference.h"

namespace clamor::kernels {
namespace {

class CrossEntropyTest : public OnTarget {};

TEST_P(CrossEntropyTest, LossAndGradient) {
  for (int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    for (const int64_t n : {1, 2, 15, 16, 17, 33, 5000}) {
      for (const int64_t rows : {0, 1, 5}) {
        std::vector<float> logits = Floats(rows * n, -30.0f, 30.0f), expected = logits;
        std::vector<int32_t> targets(rows);
        for (int32_t& target : targets) target = Below(static_cast<int>(n));
        std::vector<float> losses(rows), expected_losses(rows);
        for (int64_t r = 0; r < rows; ++r) {
          float* row = &expected[r * n];
          const float maximum = *std::max_element(row, row + n), wanted = row[targets[r]];
          reference::PartialSums sums;
          for (int64_t i = 0; i < n; ++i) sums.Add(i, row[i] = Exp(row[i] - maximum));
          for (int64_t i = 0; i < n; ++i) row[i] = row[i] * (0.25f / sums.Fold());
          row[targets[r]] -= 0.25f;
          expected_losses[r] = maximum + Log(sums.Fold()) - wanted;
        }
        CrossEntropy(logits.data(), rows, n, targets.data(), 0.25f, losses.data(), pool);
        EXPECT_TRUE(SameBits(expected, logits)) << n;
        EXPECT_TRUE(SameBits(expected_losses, losses)) << n;
      }
    }
  }
}

TEST_P(CrossEntropyTest, AgreesWithCentralDifferences) {
  ThreadPool pool(1);
  std::vector<float> logits = Floats(21, -3.0f, 3.0f);
  const int32_t target = 4;
  const auto f = [&](const std::vector<double>& x) {
    double sum = 0;
    for (const double v : x) sum += std::exp(v);
    return std::log(sum) - x[target];
  };
  const std::vector<double> expected = CentralDifferences(f, Doubles(logits));
  const double loss = f(Doubles(logits));
  float actual_loss;
  CrossEntropy(logits.data(), 1, 21, &target, 1.0f, &actual_loss, pool);
  EXPECT_TRUE(Near(expected, logits.data()));
  EXPECT_NEAR(actual_loss, loss, 1e-6);
}

CLAMOR_ON_EVERY_TARGET(CrossEntropyTest);

}  // namespace
}  // namespace clamor::kernels
