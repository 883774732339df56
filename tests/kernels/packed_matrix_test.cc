#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/matmul.h"
#include "tests/kernels/on_target.h"
#include "tests/kernels/reference.h"

namespace clamor::kernels {
namespace {

TEST(PackedMatrixTest, AtAndUnpackRowGiveBackWhatWasPacked) {
  ThreadPool pool(3);
  for (Storage stored : {Storage::kF32, Storage::kBF16, Storage::kF16}) {
    for (int64_t n : {1, 16, 21, 100}) {
      for (int64_t k : {1, 2, 7, 130}) {
        std::vector<float> values(n * k);
        for (int64_t i = 0; i < n * k; ++i) values[i] = static_cast<float>(i % 251) - 120.0f;  // exact in all
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
  PackedMatrix w(3 + 20 + 2, k, Storage::kF32);
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
    PackedMatrix w(256, 256, Storage::kF32);
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
  PackedMatrix w(1, std::size(patterns), Storage::kBF16);
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
