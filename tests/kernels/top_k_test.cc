#include "kernels/top_k.h"

#include <cmath>

#include "gtest/gtest.h"
#include "tests/kernels/on_target.h"
#include "tests/kernels/reference.h"

namespace clamor::kernels {
namespace {

class TopKTest : public OnTarget {
 protected:
  void Check(const std::vector<float>& logits, int64_t rows, int64_t n, int k, int threads) {
    ASSERT_EQ(logits.size(), static_cast<size_t>(rows * n));
    std::vector<int32_t> ids(rows * k), expected_ids(rows * k);
    std::vector<float> values(rows * k), expected_values(rows * k), sums(rows), expected_sums(rows);
    for (int64_t r = 0; r < rows; ++r) {
      reference::TopK(&logits[r * n], n, k, &expected_ids[r * k], &expected_values[r * k], &expected_sums[r]);
    }
    ThreadPool pool(threads);
    TopK(logits.data(), n, rows, n, k, ids.data(), values.data(), sums.data(), pool);
    EXPECT_EQ(ids, expected_ids) << n << " " << k;
    EXPECT_TRUE(SameBits(expected_values, values)) << n << " " << k;
    EXPECT_TRUE(SameBits(expected_sums, sums)) << n << " " << k;
    std::vector<int32_t> again(rows * k);
    TopK(logits.data(), n, rows, n, k, again.data(), values.data(), nullptr, pool);
    EXPECT_EQ(again, expected_ids);
  }
};

TEST_P(TopKTest, EverySmallSize) {
  for (int n = 1; n <= 200; n += n < 40 ? 1 : 13) {
    for (int k : {1, 2, 5, 16, 63, 64}) Check(Floats(3 * n, -20.0f, 20.0f), 3, n, k, 2);
  }
}

TEST_P(TopKTest, LargeRows) {
  for (int threads : {1, 2, 3}) {
    for (int k : {1, 8, 64}) Check(Floats(3 * 5003, -30.0f, 30.0f), 3, 5003, k, threads);
  }
}

TEST_P(TopKTest, TiesGoToTheLowestIdAndZerosAreEqual) {
  for (int n : {10, 64, 300, 1000}) {
    std::vector<float> logits(n);
    for (int i = 0; i < n; ++i) logits[i] = static_cast<float>(Below(4)) * (Below(2) == 0 ? 1.0f : -1.0f);
    for (int k : {1, 7, 64}) Check(logits, 1, n, k, 1);
    for (int i = 0; i < n; ++i) logits[i] = i % 3 == 0 ? -0.0f : 0.0f;
    for (int k : {1, 7, 64}) Check(logits, 1, n, k, 1);
  }
}

TEST_P(TopKTest, AscendingAndDescending) {
  std::vector<float> logits(3000);
  for (int i = 0; i < 3000; ++i) logits[i] = static_cast<float>(i) * 0.01f;
  Check(logits, 1, 3000, 64, 1);
  std::reverse(logits.begin(), logits.end());
  Check(logits, 1, 3000, 64, 1);
}

TEST_P(TopKTest, NaNNeverWinsAndInfinitiesCount) {
  for (int n : {5, 70, 500}) {
    for (int k : {1, 4, 64}) {
      std::vector<float> logits = Floats(n);
      for (int i = 0; i < n; i += 3) logits[i] = std::nanf("");
      Check(logits, 1, n, k, 1);
      for (float& v : logits) v = std::isnan(v) ? -reference::kInfinity : v;
      Check(logits, 1, n, k, 1);
      logits[n / 2] = reference::kInfinity;
      Check(logits, 1, n, k, 1);
      Check(std::vector<float>(n, std::nanf("")), 1, n, k, 1);
      Check(std::vector<float>(n, -reference::kInfinity), 1, n, k, 1);
    }
  }
}

TEST_P(TopKTest, LogSumExpIsAccurateAndRowsMayBeApart) {
  constexpr int64_t kN = 5003, kStride = 5010, kRows = 3;
  const std::vector<float> logits = Floats(kRows * kStride, -12.0f, 12.0f);
  int32_t ids[kRows];
  float values[kRows], sums[kRows];
  ThreadPool pool(2);
  TopK(logits.data(), kStride, kRows, kN, 1, ids, values, sums, pool);
  for (int64_t r = 0; r < kRows; ++r) {
    double sum = 0.0;
    for (int64_t i = 0; i < kN; ++i) sum += std::exp(double{logits[r * kStride + i]});
    EXPECT_NEAR(sums[r], std::log(sum), 1e-5);
  }
}

CLAMOR_ON_EVERY_TARGET(TopKTest);

}  // namespace
}  // namespace clamor::kernels
