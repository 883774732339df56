// Weights in int8 and int4 on the device, and products of hard numbers with them: the bits of the CPU's
// definition.
#include "kernels/quantized.h"

#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/cuda/quantized_weights.h"

namespace clamor::kernels::cuda {
namespace {

class CudaQuantizedTest : public OnDevice, public testing::WithParamInterface<int> {
 protected:
  const int bits_ = GetParam();

  // Ragged sizes, and values of all magnitudes: groups that count as zeros among them.
  std::vector<float> WeightValues(int64_t n, int64_t k) {
    std::vector<float> w = Floats(n * k);
    for (int64_t i = 0; i < n * k; ++i) {
      if (i / 8 % 7 == 3) w[i] = 0.0f;
      if (i % 97 == 5) w[i] *= 30.0f;
      if (i / kGroup % 11 == 2) w[i] *= 0x1p-105f;
    }
    return w;
  }

  std::vector<float> RoundedFloats(size_t n) {
    std::vector<float> v = Floats(n, -3.0f, 3.0f);
    for (float& x : v) x = reference::RoundToBF16(x);
    return v;
  }
};

TEST_P(CudaQuantizedTest, WeightsAreTheCpus) {
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{8, 8}, {24, 72}, {16, 136}}) {
    std::vector<float> w = WeightValues(n, k);
    for (int64_t i = n / 2 * k; i < n * k; ++i) w[i] = reference::RoundToBF16(w[i]);
    QuantizedWeights device(stream_, n, k, bits_);
    device.Fill(w);
    const std::vector<uint8_t> values = device.values();
    const std::vector<uint16_t> scales = device.scales();
    ThreadPool pool(1);
    PackedMatrix packed(n, k, StoredAs(bits_));
    packed.PackRows(0, n, w.data(), DType::kF32, pool);
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t c = 0; c < k; ++c) {
        const uint8_t* const group = values.data() + (r * GroupsFor(k) + c / kGroup) * 4 * bits_;
        const int i = c % kGroup, word = i % 16 / 4 * 4, nibble = i / 16 * 4 + i % 4;
        const int q = bits_ == 8 ? static_cast<int8_t>(group[i])
                                 : kInt4Values[group[word + nibble / 2] >> nibble % 2 * 4 & 0xf];
        ASSERT_EQ(static_cast<float>(q) * Widen(scales[c / kGroup * n + r]), packed.At(r, c))
            << r << " " << c;
      }
    }
  }
}

TEST_P(CudaQuantizedTest, ProductsAreTheCpusWhateverTheOtherRows) {
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{8, 24}, {72, 328}, {136, 1160}}) {
    const int64_t rows = n == 8 ? 131 : n == 72 ? 70 : 19;
    std::vector<float> w = WeightValues(n, k);
    for (float& v : w) v = reference::RoundToBF16(v);
    std::vector<float> x = RoundedFloats(rows * k);
    std::fill_n(x.begin() + 2 * k, k, 0.0f);
    x[5 * k + k - 1] = std::numeric_limits<float>::infinity();  // makes a row of NaN
    QuantizedWeights device(stream_, n, k, bits_);
    device.Fill(w);
    const std::vector<float> expected =
        reference::MatMulQuantized(x.data(), k, rows, w, n, k, StoredAs(bits_), {});
    SetSchedule(1);
    const std::vector<float> y = ProductOnDevice(stream_, x, rows, device.matrix());
    EXPECT_TRUE(SameBits(expected, y)) << n << " x " << k;
    for (const int64_t fewer : {1, 2, 16, 17, 64, 65}) {
      if (fewer > rows) break;
      SetSchedule(static_cast<int>(fewer));
      EXPECT_TRUE(SameBits(std::vector<float>(y.begin(), y.begin() + fewer * n),
                           ProductOnDevice(stream_, x, fewer, device.matrix())))
          << fewer << " rows, " << n << " x " << k;
    }
  }
}

// Part of a matrix shares its scales' stride.
TEST_P(CudaQuantizedTest, SomeOfTheRows) {
  const int64_t n = 48, k = 72, rows = 2, first = 16;
  std::vector<float> w = WeightValues(n, k);
  for (float& v : w) v = reference::RoundToBF16(v);
  const std::vector<float> x = RoundedFloats(rows * k);
  QuantizedWeights device(stream_, n, k, bits_);
  device.Fill(w);
  QuantizedMatrix part = device.matrix();
  part.values += QuantizedValueBytes(first, k, bits_);
  part.scales += first;
  part.n = 24;
  const std::vector<float> all = ProductOnDevice(stream_, x, rows, device.matrix()),
                           some = ProductOnDevice(stream_, x, rows, part);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < part.n; ++c)
      EXPECT_EQ(some[r * part.n + c], all[r * n + first + c]) << r << " " << c;
  }
}

INSTANTIATE_TEST_SUITE_P(Bits, CudaQuantizedTest, testing::Values(8, 4),
                         [](const auto& info) { return "int" + std::to_string(info.param); });

}  // namespace
}  // namespace clamor::kernels::cuda
