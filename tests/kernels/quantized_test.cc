#include "kernels/quantized.h"

#include <cmath>
#include <cstring>

#include "gtest/gtest.h"
#include "kernels/matmul.h"
#include "tests/kernels/on_target.h"
#include "tests/kernels/reference.h"

namespace clamor::kernels {
namespace {

constexpr Storage kFormats[] = {Storage::kI8, Storage::kI4};

class QuantizedTest : public OnTarget {
 protected:
  void TearDown() override {
    AllowVnni(true);
    OnTarget::TearDown();
  }

  PackedMatrix Packed(const std::vector<float>& w, int64_t n, int64_t k, Storage stored) {
    PackedMatrix packed(n, k, stored);
    packed.PackRows(0, n, w.data(), DType::kF32, pool_);
    return packed;
  }

  // The product on `threads` threads, computed with and without the integer dot products of this machine.
  std::vector<float> Product(const float* x, size_t x_stride, int64_t rows, const PackedMatrix& w,
                             const float* bias, int threads) {
    const size_t n = w.n(), y_stride = n + 5;
    ThreadPool pool(threads);
    std::vector<float> dense[2];
    for (const bool vnni : {true, false}) {
      AllowVnni(vnni);
      std::vector<float> y(rows * y_stride + 1, 77.0f);
      MatMul(x, x_stride, rows, w, bias, y.data() + 1, y_stride, pool);
      EXPECT_EQ(y[0], 77.0f);
      for (int64_t r = 0; r < rows; ++r) {
        const auto row = y.begin() + 1 + r * y_stride;
        dense[vnni].insert(dense[vnni].end(), row, row + n);
        // Nothing between rows was written.
        for (size_t i = n; i < y_stride && 1 + r * y_stride + i < y.size(); ++i) EXPECT_EQ(row[i], 77.0f);
      }
    }
    EXPECT_TRUE(SameBits(dense[0], dense[1]));
    return dense[0];
  }

  void Check(const std::vector<float>& x, size_t x_stride, int64_t rows, const std::vector<float>& w,
             const PackedMatrix& packed, bool with_bias, int threads) {
    const std::vector<float> bias = with_bias ? Floats(packed.n()) : std::vector<float>();
    ASSERT_TRUE(
        SameBits(reference::MatMulQuantized(x.data(), x_stride, rows, w, packed.n(), packed.k(),
                                            packed.stored(), bias),
                 Product(x.data(), x_stride, rows, packed, with_bias ? bias.data() : nullptr, threads)))
        << rows << " rows, " << packed.n() << " x " << packed.k() << ", " << StorageName(packed.stored());
  }

  void CheckShape(int64_t n, int64_t k, const std::vector<int64_t>& row_counts, int threads) {
    const std::vector<float> w = Floats(n * k);
    for (const Storage stored : kFormats) {
      const PackedMatrix packed = Packed(w, n, k, stored);
      for (const int64_t rows : row_counts) {
        Check(Floats(rows * (k + 3)), k + 3, rows, w, packed, rows % 2 == 0, threads);
      }
    }
  }

  ThreadPool pool_{2};
};

TEST_P(QuantizedTest, EveryRowCount) {
  std::vector<int64_t> rows = {97, 100, 130};
  for (int64_t r = 0; r <= 40; r += kStride) rows.push_back(r);
  CheckShape(37, 83, rows, 2);
}

TEST_P(QuantizedTest, OddShapes) {
  for (const int64_t n : {1, 15, 16, 17, 31, 33, 48, 80}) {
    for (const int64_t k : {1, 20, 31, 32, 33, 64, 65, 96, 130}) CheckShape(n, k, {1, 2, 5, 13, 26}, 3);
  }
}

// Longer than one block of groups, where sums leave the registers and come back.
TEST_P(QuantizedTest, LongK) { CheckShape(35, 1283, {1, 4, 12, 13, 30, 64, 100}, 2); }

TEST_P(QuantizedTest, MoreRowsThanOnePassTakes) { CheckShape(17, 40, {480, 481, 700}, 3); }

TEST_P(QuantizedTest, ARowIsTheSameAloneAndInABatch) {
  constexpr int64_t kRows = 67, kN = 50, kK = 600;
  const std::vector<float> x = Floats(kRows * kK), w = Floats(kN * kK);
  for (const Storage stored : kFormats) {
    const PackedMatrix packed = Packed(w, kN, kK, stored);
    const std::vector<float> batch = Product(x.data(), kK, kRows, packed, nullptr, 2);
    for (int64_t r = 0; r < kRows; ++r) {
      const std::vector<float> alone = Product(x.data() + r * kK, kK, 1, packed, nullptr, 1);
      ASSERT_TRUE(SameBits(alone.data(), batch.data() + r * kN, kN)) << r;
    }
  }
}

// Everything at the ends of its range, in all combinations: the largest sums there are.
TEST_P(QuantizedTest, LargestSums) {
  constexpr int64_t kN = 32, kK = 96, kRows = 14;
  std::vector<float> w(kN * kK), x(kRows * kK);
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t i = 0; i < kK; ++i) x[r * kK + i] = r % 4 == 0 ? 1 : r % 4 == 1 ? -1 : Below(2) * 2 - 1;
  }
  for (const Storage stored : kFormats) {
    const int ends[] = {stored == Storage::kI8 ? -127 : -31, stored == Storage::kI8 ? 127 : 26};
    for (int64_t c = 0; c < kN; ++c) {
      for (int64_t i = 0; i < kK; ++i) {
        // The first of a group reaches furthest, and so decides the scale: 1, or -1.
        const bool high = i % 32 > 0 && (c % 4 == 1 || (c % 4 > 1 && Below(2) == 1));
        w[c * kK + i] = static_cast<float>(ends[high] * (c % 8 < 4 ? 1 : -1));
      }
      const reference::Group group = reference::WeightGroups(&w[c * kK], 32, stored)[0];
      for (const int q : group.q) ASSERT_TRUE(std::abs(q) == -ends[0] || q == ends[1]) << c << " " << q;
    }
    const PackedMatrix packed = Packed(w, kN, kK, stored);
    Check(x, kK, kRows, w, packed, false, 2);
    for (int64_t r = 0; r < kRows; ++r)
      Check({x.begin() + r * kK, x.begin() + (r + 1) * kK}, kK, 1, w, packed, false, 1);
  }
}

// Groups of zeros have no scale to divide by; neither do those that count as zeros.
TEST_P(QuantizedTest, ZerosAndTinyGroups) {
  constexpr int64_t kN = 20, kK = 100, kRows = 15;
  const float magnitudes[] = {0, 1e-45f, 0x1p-126f, 0x1.fffffep-101f, 0x1p-100f, 1e-20f, 1, 1e20f};
  std::vector<float> w = Floats(kN * kK), x = Floats(kRows * kK);
  for (int64_t i = 0; i < kN * kK; ++i) w[i] *= magnitudes[(i / 32 + i / kK) % 8];
  for (int64_t i = 0; i < kRows * kK; ++i) x[i] *= magnitudes[(i / 32 + i / kK) % 8];
  std::fill_n(w.begin(), kK, 0.0f);
  std::fill_n(x.begin(), kK, 0.0f);
  for (const Storage stored : kFormats) {
    const PackedMatrix packed = Packed(w, kN, kK, stored);
    Check(x, kK, kRows, w, packed, true, 2);
    const std::vector<float> y = Product(x.data(), kK, kRows, packed, nullptr, 2);
    for (int64_t c = 0; c < kN; ++c) EXPECT_EQ(y[c], 0.0f) << c;
    for (int64_t r = 0; r < kRows; ++r) EXPECT_EQ(y[r * kN], 0.0f) << r;
  }
}

TEST_P(QuantizedTest, ARowWithInfinityOrNaNBecomesNaNAndNoOther) {
  constexpr int64_t kN = 20, kK = 70, kRows = 16;
  const std::vector<float> w = [&] {
    std::vector<float> v = Floats(kN * kK);
    std::fill_n(v.begin(), kK, 0.0f);  // not even zeros hide it
    return v;
  }();
  std::vector<float> x = Floats(kRows * kK);
  x[2 * kK + 69] = reference::kInfinity;
  x[5 * kK] = -reference::kInfinity;
  x[11 * kK + 40] = std::numeric_limits<float>::quiet_NaN();
  x[15 * kK + 31] = std::bit_cast<float>(0xff800001u);  // negative, signalling
  for (const Storage stored : kFormats) {
    const PackedMatrix packed = Packed(w, kN, kK, stored);
    Check(x, kK, kRows, w, packed, true, 2);
    const std::vector<float> y = Product(x.data(), kK, kRows, packed, nullptr, 1);
    for (int64_t r = 0; r < kRows; ++r) {
      const bool bad = r == 2 || r == 5 || r == 11 || r == 15;
      for (int64_t c = 0; c < kN; ++c) EXPECT_EQ(std::isnan(y[r * kN + c]), bad) << r << " " << c;
    }
  }
}

// Groups of all kinds, from all kinds of sources, are quantised as the twin does.
TEST_P(QuantizedTest, WeightsAreThoseOfTheTwin) {
  constexpr int64_t kN = 150, kK = 170;
  std::vector<uint16_t> half(kN * kK);
  std::vector<float> w(kN * kK), from_bf16(kN * kK), from_fp16(kN * kK);
  for (int64_t i = 0; i < kN * kK; i += 10) {
    const float size = std::ldexp(1.0f, Below(3) == 0 ? Below(250) - 126 : 0);
    const int kind = Below(5);
    for (int64_t j = i; j < i + 10; ++j) {
      half[j] = static_cast<uint16_t>(Below(65536) & 0xbbff);  // finite in both formats
      w[j] = kind == 0 ? size : kind == 1 ? size * static_cast<float>(Below(9) - 4) : size * Uniform();
    }
  }
  PackedMatrix exact(kN, kK, Storage::kF32);
  exact.PackRows(0, kN, half.data(), DType::kBF16, pool_);
  for (int64_t c = 0; c < kN; ++c) exact.UnpackRow(c, from_bf16.data() + c * kK);
  exact.PackRows(0, kN, half.data(), DType::kF16, pool_);
  for (int64_t c = 0; c < kN; ++c) exact.UnpackRow(c, from_fp16.data() + c * kK);
  struct Source {
    const void* data;
    DType type;
    const std::vector<float>& values;
  };
  for (const Source& source : {Source{w.data(), DType::kF32, w}, Source{half.data(), DType::kBF16, from_bf16},
                               Source{half.data(), DType::kF16, from_fp16}}) {
    for (const Storage stored : kFormats) {
      PackedMatrix packed(kN, kK, stored);
      packed.PackRows(0, kN, source.data, source.type, pool_);
      std::vector<float> row(kK);
      for (int64_t c = 0; c < kN; ++c) {
        const auto groups = reference::WeightGroups(source.values.data() + c * kK, kK, stored);
        packed.UnpackRow(c, row.data());
        for (int64_t i = 0; i < kK; ++i) {
          const float expected = static_cast<float>(groups[i / 32].q[i % 32]) * groups[i / 32].scale;
          ASSERT_EQ(packed.At(c, i), expected) << StorageName(stored) << " " << c << " " << i;
          ASSERT_EQ(row[i], expected);
        }
      }
    }
  }
}

// int4 is held against sixteen even steps from -8 to 7, on normally distributed weights.
TEST_P(QuantizedTest, ErrorsAreBounded) {
  constexpr int64_t kN = 64, kK = 320;
  std::vector<float> w(kN * kK);
  for (float& v : w) {
    v = -6;
    for (int i = 0; i < 12; ++i) v += 0.5f + 0.5f * Uniform();
  }
  const PackedMatrix int8 = Packed(w, kN, kK, Storage::kI8), int4 = Packed(w, kN, kK, Storage::kI4);
  double squares = 0, even_squares = 0;
  for (int64_t c = 0; c < kN; ++c) {
    for (int64_t group = 0; group < kK; group += 32) {
      float v[32];
      std::copy_n(w.data() + c * kK + group, 32, v);
      const float extreme = reference::Extreme(v);
      const float even = reference::RoundToBF16(extreme / -8.0f);
      for (int i = 0; i < 32; ++i) {
        EXPECT_LE(std::abs(int8.At(c, group + i) - v[i]),
                  std::abs(extreme) / 254 * (1 + 1.0f / 128) * 1.00001f);
        squares += std::pow(int4.At(c, group + i) - v[i], 2);
        even_squares += std::pow(std::clamp(std::nearbyint(v[i] / even), -8.0f, 7.0f) * even - v[i], 2);
      }
    }
  }
  EXPECT_LT(squares, 0.82 * even_squares);
  EXPECT_GT(squares, 0.6 * even_squares);
}

// A last group that k does not fill, and tensors that begin within a panel.
TEST_P(QuantizedTest, SeveralTensorsBelowEachOtherFromUnalignedMemory) {
  constexpr int64_t kK = 75;
  constexpr int64_t kRows[] = {3, 20, 2, 16, 40};
  const std::vector<float> w = Floats(81 * kK);
  for (const Storage stored : kFormats) {
    const PackedMatrix whole = Packed(w, 81, kK, stored);
    PackedMatrix parts(81, kK, stored);
    int64_t row = 0;
    for (const int64_t rows : kRows) {
      std::vector<char> bytes(rows * kK * 4 + 1);
      std::memcpy(bytes.data() + 1, w.data() + row * kK, rows * kK * 4);
      parts.PackRows(row, rows, bytes.data() + 1, DType::kF32, pool_);
      row += rows;
    }
    ASSERT_EQ(row, 81);
    ASSERT_EQ(whole.bytes(), parts.bytes());
    EXPECT_EQ(whole.bytes(), 6u * 2 * (stored == Storage::kI8 ? 64 + 1024 : 64 + 512));
    std::vector<float> a(kK), b(kK);
    for (int64_t r = 0; r < 81; ++r) {
      whole.UnpackRow(r, a.data());
      parts.UnpackRow(r, b.data());
      ASSERT_TRUE(SameBits(a, b)) << r;
    }
    const std::vector<float> x = Floats(3 * kK);
    EXPECT_TRUE(
        SameBits(Product(x.data(), kK, 3, whole, nullptr, 1), Product(x.data(), kK, 3, parts, nullptr, 1)));
  }
}

CLAMOR_ON_EVERY_TARGET(QuantizedTest);

}  // namespace
}  // namespace clamor::kernels
