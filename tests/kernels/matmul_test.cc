#include "kernels/matmul.h"

#include "gtest/gtest.h"
#include "tests/kernels/on_target.h"
#include "tests/kernels/reference.h"

namespace clamor::kernels {
namespace {

constexpr Storage kFormats[] = {Storage::kF32, Storage::kBF16, Storage::kF16};

// Row-major weights and the same packed.
struct Weights {
  std::vector<float> values;  // [n, k], rounded to what is stored
  PackedMatrix packed;
};

class MatMulTest : public OnTarget {
 protected:
  Weights Make(int64_t n, int64_t k, Storage stored) {
    Weights w = {Floats(n * k), PackedMatrix(n, k, stored)};
    w.packed.PackRows(0, n, w.values.data(), DType::kF32, pool_);
    if (stored == Storage::kBF16) {
      for (float& v : w.values) v = reference::RoundToBF16(v);
    }
    if (stored == Storage::kF16) {
      for (float& v : w.values) v = reference::RoundToFP16(v);
    }
    return w;
  }

  // Runs on `threads` threads with strides wider than the rows and checks that nothing between rows was
  // written.
  void Check(const Weights& w, int64_t rows, bool with_bias, int threads) {
    const int64_t n = w.packed.n(), k = w.packed.k();
    const size_t x_stride = k + 3, y_stride = n + 5;
    const std::vector<float> x = Floats(rows * x_stride + 1);
    const std::vector<float> bias = with_bias ? Floats(n) : std::vector<float>();
    std::vector<float> y(rows * y_stride + 1, 77.0f);
    ThreadPool pool(threads);
    MatMul(x.data() + 1, x_stride, rows, w.packed, with_bias ? bias.data() : nullptr, y.data() + 1, y_stride,
           pool);
    const std::vector<float> expected = reference::MatMul(x.data() + 1, x_stride, rows, w.values, n, k, bias);
    EXPECT_EQ(y[0], 77.0f);
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = y.data() + 1 + r * y_stride;
      ASSERT_TRUE(SameBits(expected.data() + r * n, row, n))
          << "row " << r << " of " << rows << ", " << n << " x " << k;
      for (size_t i = n; i < y_stride && 1 + r * y_stride + i < y.size(); ++i) ASSERT_EQ(row[i], 77.0f);
    }
  }

  ThreadPool pool_{2};
};

TEST_P(MatMulTest, EveryRowCount) {
  for (Storage stored : kFormats) {
    const Weights w = Make(37, 19, stored);
    for (int64_t rows = 0; rows <= 130; rows += kStride) Check(w, rows, rows % 2 == 0, 1 + rows % 3);
  }
}

TEST_P(MatMulTest, OddShapes) {
  for (Storage stored : kFormats) {
    for (int64_t n : {1, 15, 16, 17, 33, 48, 64, 90}) {
      for (int64_t k : {1, 2, 3, 16, 31, 64}) {
        const Weights w = Make(n, k, stored);
        for (int64_t rows : {1, 2, 5, 26, 97}) Check(w, rows, n % 2 == 0, 2);
      }
    }
  }
}

// K longer than one block with several row blocks, where sums leave the registers and come back.
TEST_P(MatMulTest, LongK) {
  for (Storage stored : kFormats) {
    const Weights w = Make(35, 1283, stored);
    for (int64_t rows : {1, 4, 30, 64, 100}) Check(w, rows, true, 2);
  }
}

TEST_P(MatMulTest, MoreRowsThanOnePassTakes) {
  const Weights w = Make(17, 9, Storage::kBF16);
  for (int64_t rows : {480, 481, 700}) Check(w, rows, true, 3);
}

TEST_P(MatMulTest, ARowIsTheSameAloneAndInABatch) {
  const Weights w = Make(50, 600, Storage::kBF16);
  constexpr int64_t kRows = 67;
  const std::vector<float> x = Floats(kRows * 600);
  std::vector<float> batch(kRows * 50), alone(50);
  MatMul(x.data(), 600, kRows, w.packed, nullptr, batch.data(), 50, pool_);
  for (int64_t r = 0; r < kRows; ++r) {
    MatMul(x.data() + r * 600, 600, 1, w.packed, nullptr, alone.data(), 50, pool_);
    ASSERT_TRUE(SameBits(alone.data(), batch.data() + r * 50, 50)) << r;
  }
}

// An odd last k must not become a multiplication by padding: that would turn a sum of -0 into 0 and infinity
// into NaN.
TEST_P(MatMulTest, PaddingNeverEntersASum) {
  PackedMatrix w(1, 1, Storage::kBF16);
  const float one = 1.0f;
  w.PackRows(0, 1, &one, DType::kF32, pool_);
  const float x[2] = {reference::kInfinity, std::numeric_limits<float>::quiet_NaN()};
  float y = 0.0f;
  MatMul(x, 1, 1, w, nullptr, &y, 1, pool_);
  EXPECT_EQ(y, reference::kInfinity);
}

CLAMOR_ON_EVERY_TARGET(MatMulTest);

}  // namespace
}  // namespace clamor::kernels
