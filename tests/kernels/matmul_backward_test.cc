#include "kernels/matmul_backward.h"

#include <cmath>

#include "gtest/gtest.h"
#include "kernels/matmul.h"
#include "tests/kernels/central_differences.h"
#include "tests/kernels/on_target.h"

namespace clamor::kernels {
namespace {

class MatMulBackwardTest : public OnTarget {
 protected:
  static PackedRows Pack(const float* x, int64_t rows, int64_t k, size_t stride = 0) {
    ThreadPool pool(2);
    PackedRows packed;
    packed.Pack(x, stride > 0 ? stride : k, rows, k, pool);
    return packed;
  }
};

// One chain over rows for each weight.
std::vector<float> WeightGradient(const std::vector<float>& dy, const std::vector<float>& x, int64_t rows,
                                  int64_t n, int64_t k, std::vector<float> dw) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t i = 0; i < k; ++i) dw[j * k + i] = std::fma(dy[r * n + j], x[r * k + i], dw[j * k + i]);
    }
  }
  return dw;
}

TEST_P(MatMulBackwardTest, WeightGradientIsOneChainOverRows) {
  struct Case {
    int64_t rows, n, k;
  };
  for (const auto& [rows, n, k] : {Case{0, 3, 5},
                                   {1, 1, 1},
                                   {2, 17, 33},
                                   {50, 24, 16},
                                   {7, 481, 15},
                                   {513, 30, 40},
                                   {1100, 25, 17},
                                   {3, 9, 64},
                                   {5, 33, 500}}) {
    const std::vector<float> dy = Floats(rows * n), x = Floats(rows * k), before = Floats(n * k);
    const std::vector<float> expected = WeightGradient(dy, x, rows, n, k, before);
    for (int threads : {1, 2, 3}) {
      ThreadPool pool(threads);
      std::vector<float> dw = before;
      AddWeightGradient(Pack(dy.data(), rows, n), Pack(x.data(), rows, k), dw.data(), pool);
      EXPECT_TRUE(SameBits(expected, dw)) << rows << " " << n << " " << k;
    }
  }
}

TEST_P(MatMulBackwardTest, ABatchMayBeCutAnywhere) {
  ThreadPool pool(2);
  constexpr int64_t kRows = 600, kN = 30, kK = 20;
  const std::vector<float> dy = Floats(kRows * kN), x = Floats(kRows * kK);
  std::vector<float> whole(kN * kK), cut(kN * kK), whole_bias(kN), cut_bias(kN);
  AddWeightGradient(Pack(dy.data(), kRows, kN), Pack(x.data(), kRows, kK), whole.data(), pool);
  AddBiasGradient(Pack(dy.data(), kRows, kN), whole_bias.data(), pool);
  for (int64_t row = 0; row < kRows;) {
    const int64_t count = std::min<int64_t>(kRows - row, 1 + Below(90));
    const PackedRows some_dy = Pack(&dy[row * kN], count, kN);
    AddWeightGradient(some_dy, Pack(&x[row * kK], count, kK), cut.data(), pool);
    AddBiasGradient(some_dy, cut_bias.data(), pool);
    row += count;
  }
  EXPECT_TRUE(SameBits(whole, cut));
  EXPECT_TRUE(SameBits(whole_bias, cut_bias));
}

TEST_P(MatMulBackwardTest, StridesAreSkipped) {
  ThreadPool pool(2);
  constexpr int64_t kRows = 9, kN = 5, kK = 18;
  const std::vector<float> dy = Floats(kRows * 8), x = Floats(kRows * 20);
  std::vector<float> dense_dy, dense_x, dw(kN * kK), db(kN), expected_db(kN);
  for (int64_t r = 0; r < kRows; ++r) {
    dense_dy.insert(dense_dy.end(), &dy[r * 8], &dy[r * 8] + kN);
    dense_x.insert(dense_x.end(), &x[r * 20], &x[r * 20] + kK);
    for (int64_t j = 0; j < kN; ++j) expected_db[j] += dy[r * 8 + j];
  }
  AddWeightGradient(Pack(dy.data(), kRows, kN, 8), Pack(x.data(), kRows, kK, 20), dw.data(), pool);
  AddBiasGradient(Pack(dy.data(), kRows, kN, 8), db.data(), pool);
  EXPECT_TRUE(SameBits(WeightGradient(dense_dy, dense_x, kRows, kN, kK, std::vector<float>(kN * kK)), dw));
  EXPECT_TRUE(SameBits(expected_db, db));
}

TEST_P(MatMulBackwardTest, TransposedWeightsGiveTheGradientOfTheInput) {
  ThreadPool pool(2);
  for (const int64_t n : {1, 16, 35}) {
    for (const int64_t k : {1, 17, 64}) {
      const std::vector<float> w = Floats(n * k), dy = Floats(6 * n);
      for (const Storage stored : {Storage::kF32, Storage::kBF16, Storage::kF16}) {
        PackedMatrix rows(n, k, stored), transposed(k, n, stored);
        rows.PackRows(0, n, w.data(), DType::kF32, pool);
        transposed.PackTransposed(0, n / 2, w.data(), DType::kF32, pool);
        transposed.PackTransposed(n / 2, n - n / 2, w.data() + n / 2 * k, DType::kF32, pool);
        for (int64_t j = 0; j < n; ++j) {
          for (int64_t i = 0; i < k; ++i) ASSERT_EQ(transposed.At(i, j), rows.At(j, i));
        }
        std::vector<float> dx(6 * k), expected(6 * k);
        MatMul(dy.data(), n, 6, transposed, nullptr, dx.data(), k, pool);
        for (int64_t r = 0; r < 6; ++r) {
          for (int64_t j = 0; j < n; ++j) {
            for (int64_t i = 0; i < k; ++i) {
              expected[r * k + i] = std::fma(dy[r * n + j], rows.At(j, i), expected[r * k + i]);
            }
          }
        }
        EXPECT_TRUE(SameBits(expected, dx));
      }
    }
  }
}

TEST_P(MatMulBackwardTest, AgreesWithCentralDifferences) {
  ThreadPool pool(1);
  constexpr int64_t kRows = 4, kN = 5, kK = 7;
  const std::vector<float> x = Floats(kRows * kK), w = Floats(kN * kK), seen = Floats(kRows * kN);
  // The function is sum(seen * y), so that dy = seen.
  const auto f = [&](const std::vector<double>& in, const std::vector<double>& weights) {
    double sum = 0;
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t j = 0; j < kN; ++j) {
        for (int64_t i = 0; i < kK; ++i) sum += seen[r * kN + j] * in[r * kK + i] * weights[j * kK + i];
      }
    }
    return sum;
  };
  std::vector<float> dw(kN * kK), dx(kRows * kK);
  AddWeightGradient(Pack(seen.data(), kRows, kN), Pack(x.data(), kRows, kK), dw.data(), pool);
  EXPECT_TRUE(
      Near(CentralDifferences([&](const auto& weights) { return f(Doubles(x), weights); }, Doubles(w)),
           dw.data()));
  PackedMatrix transposed(kK, kN, Storage::kF32);
  transposed.PackTransposed(0, kN, w.data(), DType::kF32, pool);
  MatMul(seen.data(), kN, kRows, transposed, nullptr, dx.data(), kK, pool);
  EXPECT_TRUE(
      Near(CentralDifferences([&](const auto& in) { return f(in, Doubles(w)); }, Doubles(x)), dx.data()));
}

CLAMOR_ON_EVERY_TARGET(MatMulBackwardTest);

}  // namespace
}  // namespace clamor::kernels
