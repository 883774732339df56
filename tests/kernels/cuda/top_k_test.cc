// Ranking and drawing from rows of logits: the ids and values of plain loops, ties and NaN included.
#include "kernels/cuda/top_k.h"

#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/sample.h"
#include "kernels/elementwise.h"
#include "tests/kernels/cuda/dull_draw.h"
#include "tests/kernels/cuda/on_device.h"

namespace clamor::kernels::cuda {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

class CudaTopKTest : public OnDevice {
 protected:
  // The sum in the order that the header states.
  static float LogSumExp(const float* logits, int32_t n, float maximum) {
    if (std::isinf(maximum)) return maximum;
    float sums[kTopKSums] = {}, of_warps[16];
    for (int32_t i = 0; i < n; ++i) sums[i % kTopKSums] += Exp(logits[i] - maximum);
    for (int w = 0; w < 16; ++w) {
      float* const s = sums + 32 * w;
      for (int half = 16; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) s[i] += s[i + half];
      }
      of_warps[w] = s[0];
    }
    for (int half = 8; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) of_warps[i] += of_warps[i + half];
    }
    return maximum + Log(of_warps[0]);
  }

  void Check(const std::vector<float>& logits, int64_t rows, int32_t n, int k, bool every_schedule = false) {
    const int64_t stride = static_cast<int64_t>(logits.size()) / rows;
    const auto run = [&] {
      DeviceArray<float> in(stream_, logits), values(stream_, rows * k), sums(stream_, rows);
      DeviceArray<int32_t> ids(stream_, rows * k);
      TopK({.logits = in.data(),
            .stride = stride,
            .rows = rows,
            .n = n,
            .k = k,
            .ids = ids.data(),
            .values = values.data(),
            .log_sum_exp = sums.data()},
           stream_);
      return std::tuple(ids.Read(), BitsOf(values.Read()), BitsOf(sums.Read()));
    };
    const auto [ids, values, sums] = every_schedule ? OnEverySchedule(run) : run();
    for (int64_t r = 0; r < rows; ++r) {
      std::vector<int32_t> expected_ids(k);
      std::vector<float> expected_values(k);
      float unused;
      const float* const row = &logits[r * stride];
      reference::TopK(row, n, k, expected_ids.data(), expected_values.data(), &unused);
      for (int i = 0; i < k; ++i) {
        EXPECT_EQ(ids[r * k + i], expected_ids[i]) << "row " << r << " place " << i << " of n " << n;
        EXPECT_EQ(values[r * k + i], std::bit_cast<uint32_t>(expected_values[i]))
            << "row " << r << " place " << i;
      }
      const float sum = std::bit_cast<float>(sums[r]), expected = LogSumExp(row, n, expected_values[0]);
      EXPECT_TRUE(SameBits(&expected, &sum, 1)) << "row " << r;
    }
  }

  static std::vector<uint32_t> BitsOf(const std::vector<float>& v) {
    std::vector<uint32_t> bits;
    for (const float x : v) bits.push_back(std::bit_cast<uint32_t>(x));
    return bits;
  }
};

TEST_F(CudaTopKTest, FindsTheBestOfRandomRows) {
  Check(Floats(3 * 2000, -9, 9), 3, 1999, 8, /*every_schedule=*/true);
  for (const int32_t n : {1, 5, 511, 513, 1500}) {
    for (const int k : {1, 3, 64}) Check(Floats(2 * n, -9, 9), 2, n, k);
  }
}

TEST_F(CudaTopKTest, TiesGoToTheLowestId) {
  std::vector<float> logits(3000, 1.0f);  // more candidates than there is room for
  Check(logits, 1, 3000, 64);
  logits[2999] = 2.0f;
  logits[17] = 0.5f;
  Check(logits, 1, 3000, 10);
  Check({0.0f, -0.0f, -1.0f, 0.0f}, 1, 4, 3);
}

TEST_F(CudaTopKTest, TheBestMayAllBelongToOneThread) {
  std::vector<float> logits = Floats(600 * 512);
  for (size_t i = 5; i < logits.size(); i += 512) logits[i] += 10.0f;
  Check(logits, 1, static_cast<int32_t>(logits.size()), 40);
}

TEST_F(CudaTopKTest, NaNAndInfinity) {
  Check({kNaN, 1.0f, kNaN, -reference::kInfinity}, 1, 4, 3);
  Check({kNaN, kNaN}, 1, 2, 2);
  Check({reference::kInfinity, 1.0f, reference::kInfinity}, 1, 3, 3);
  Check(std::vector<float>(700, -reference::kInfinity), 1, 700, 4);
}

class CudaSampleTest : public OnDevice {};

TEST_F(CudaSampleTest, DrawsWhatTheDefinitionDraws) {
  // The known answer for zero counter and key (Random123's kat_vectors).
  EXPECT_EQ(Philox({0, 0, 0, 0}, 0, 0),
            (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));

  const int32_t n = 1300;
  std::vector<float> logits = Floats(9 * n, -2, 2);
  for (int i = 0; i < n; ++i) {
    logits[7 * n + i] = i % 3 == 0 ? kNaN : -reference::kInfinity;
    logits[8 * n + i] = i < 700 ? kNaN : 3.0f;
  }
  const std::vector<Draw> draws = {{1, 0, 1.0f},
                                   {1, 1, 1.0f},
                                   {2, 0, 1.0f},
                                   {~0ull, 1ll << 40, 0.7f},
                                   {5, 3, 100.0f},
                                   {5, 3, 0.01f},
                                   {5, 3, 0.0f} /*greedy*/,
                                   {1, 1, 1.0f},
                                   {1, 1, 0.0f}};
  const std::vector<int32_t> got = OnEverySchedule([&] {
    DeviceArray<float> in(stream_, logits);
    DeviceArray<Draw> how(stream_, draws);
    DeviceArray<int32_t> tokens(stream_, draws.size());
    Sample({.logits = in.data(),
            .stride = n,
            .rows = static_cast<int64_t>(draws.size()),
            .n = n,
            .draws = how.data(),
            .tokens = tokens.data()},
           stream_);
    return tokens.Read();
  });
  for (size_t r = 0; r < draws.size(); ++r)
    EXPECT_EQ(got[r], DullDraw(&logits[r * n], n, draws[r])) << "row " << r;
}

}  // namespace
}  // namespace clamor::kernels::cuda
