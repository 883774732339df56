#include "kernels/matmul.h"

#include <bit>
#include <cstring>

#include "gtest/gtest.h"
#include "tests/kernels/on_target.h"
#include "tests/kernels/reference.h"

namespace clamor::kernels {
namespace {

// Row-major weights and the same packed.
struct Weights {
  std::vector<float> values;  // [n, k], rounded to what is stored
  PackedMatrix packed;
};

class MatMulTest : public OnTarget {
 protected:
  Weights Make(int64_t n, int64_t k, DType stored) {
    Weights w = {Floats(n * k), PackedMatrix(n, k, stored)};
    w.packed.PackRows(0, n, w.values.data(), DType::kF32, pool_);
    if (stored == DType::kBF16) {
      for (float& v : w.values) v = reference::RoundToBF16(v);
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
  for (DType stored : {DType::kF32, DType::kBF16}) {
    const Weights w = Make(37, 19, stored);
    for (int64_t rows = 0; rows <= 130; rows += kStride) Check(w, rows, rows % 2 == 0, 1 + rows % 3);
  }
}

TEST_P(MatMulTest, OddShapes) {
  for (DType stored : {DType::kF32, DType::kBF16}) {
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
  for (DType stored : {DType::kF32, DType::kBF16}) {
    const Weights w = Make(35, 1283, stored);
    for (int64_t rows : {1, 4, 30, 64, 100}) Check(w, rows, true, 2);
  }
}

TEST_P(MatMulTest, MoreRowsThanOnePassTakes) {
  const Weights w = Make(17, 9, DType::kBF16);
  for (int64_t rows : {480, 481, 700}) Check(w, rows, true, 3);
}

TEST_P(MatMulTest, ARowIsTheSameAloneAndInABatch) {
  const Weights w = Make(50, 600, DType::kBF16);
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
  PackedMatrix w(1, 1, DType::kBF16);
  const float one = 1.0f;
  w.PackRows(0, 1, &one, DType::kF32, pool_);
  const float x[2] = {reference::kInfinity, std::numeric_limits<float>::quiet_NaN()};
  float y = 0.0f;
  MatMul(x, 1, 1, w, nullptr, &y, 1, pool_);
  EXPECT_EQ(y, reference::kInfinity);
}

CLAMOR_ON_EVERY_TARGET(MatMulTest);

TEST(PackedMatrixTest, AtAndUnpackRowGiveBackWhatWasPacked) {
  ThreadPool pool(3);
  for (DType stored : {DType::kF32, DType::kBF16}) {
    for (int64_t n : {1, 16, 21, 100}) {
      for (int64_t k : {1, 2, 7, 130}) {
        std::vector<float> values(n * k);
        for (int64_t i = 0; i < n * k; ++i)
          values[i] = static_cast<float>(i % 251) - 120.0f;  // exact in bf16
        PackedMatrix w(n, k, stored);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(w.data()) % 64, 0u);
        w.PackRows(0, n, values.data(), DType::kF32, pool);
        std::vector<float> row(k);
        for (int64_t r = 0; r < n; ++r) {
          w.UnpackRow(r, row.data());
          for (int64_t c = 0; c < k; ++c) {
            ASSERT_EQ(w.At(r, c), values[r * k + c]);
            ASSERT_EQ(row[c], values[r * k + c]);
          }
        }
      }
    }
  }
}

TEST(PackedMatrixTest, SeveralTensorsBelowEachOtherFromUnalignedMemory) {
  ThreadPool pool(2);
  constexpr int64_t k = 5;
  PackedMatrix w(3 + 20 + 2, k, DType::kF32);
  int64_t row = 0;
  for (int64_t rows : {3, 20, 2}) {
    std::vector<float> values(rows * k);
    for (int64_t i = 0; i < rows * k; ++i) values[i] = static_cast<float>(row * k + i);
    std::vector<char> bytes(values.size() * 4 + 1);
    std::memcpy(bytes.data() + 1, values.data(), values.size() * 4);
    w.PackRows(row, rows, bytes.data() + 1, DType::kF32, pool);
    row += rows;
  }
  for (int64_t r = 0; r < row; ++r) {
    for (int64_t c = 0; c < k; ++c) ASSERT_EQ(w.At(r, c), static_cast<float>(r * k + c));
  }
}

// All 65536 patterns of each half-size type.
TEST(PackedMatrixTest, HalfPrecisionSourcesConvertExactly) {
  ThreadPool pool(2);
  std::vector<uint16_t> bits(65536);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
  for (DType type : {DType::kBF16, DType::kF16}) {
    PackedMatrix w(256, 256, DType::kF32);
    w.PackRows(0, 256, bits.data(), type, pool);
    for (size_t i = 0; i < bits.size(); ++i) {
      float expected = std::bit_cast<float>(uint32_t{bits[i]} << 16);
      if (type == DType::kF16) {
        const int exponent = bits[i] >> 10 & 31, fraction = bits[i] & 1023;
        expected = exponent == 0    ? std::ldexp(static_cast<float>(fraction), -24)
                   : exponent == 31 ? (fraction ? NAN : INFINITY)
                                    : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
        if (bits[i] & 0x8000) expected = -expected;
      }
      const float actual = w.At(i / 256, i % 256);
      ASSERT_TRUE(SameBits(&expected, &actual, 1)) << i;
    }
  }
}

TEST(PackedMatrixTest, BF16RoundsToNearestEvenAndKeepsNaN) {
  ThreadPool pool(1);
  const uint32_t patterns[] = {0x3f808000, 0x3f818000, 0x3f808001, 0x3f807fff, 0x7f7fffff,
                               0x7fffffff, 0xffffffff, 0x7f800001, 0x80000000, 0x00008000};
  float values[std::size(patterns)];
  std::memcpy(values, patterns, sizeof(patterns));
  PackedMatrix w(1, std::size(patterns), DType::kBF16);
  w.PackRows(0, 1, values, DType::kF32, pool);
  for (size_t i = 0; i < std::size(patterns); ++i) {
    const float actual = w.At(0, i);
    if (std::isnan(values[i])) {
      EXPECT_TRUE(std::isnan(actual)) << i;
    } else {
      const float expected = reference::RoundToBF16(values[i]);
      EXPECT_TRUE(SameBits(&expected, &actual, 1)) << i;
    }
  }
}

}  // namespace
}  // namespace clamor::kernels
