// Weights and rows in int8 and int4 on the device, and their products: the bits of the CPU's definition.
#include "kernels/quantized.h"

#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/quantized_matmul.h"
#include "tests/kernels/cuda/on_device.h"

namespace clamor::kernels::cuda {
namespace {

Storage StoredAs(int bits) { return bits == 8 ? Storage::kI8 : Storage::kI4; }

// A matrix on the device and its memory.
class Weights {
 public:
  Weights(cudaStream_t stream, int64_t n, int64_t k, int bits)
      : values_(stream, std::vector<uint8_t>(QuantizedValueBytes(n, k, bits))),
        scales_(stream, std::vector<uint16_t>(n * GroupsFor(k))),
        matrix_{values_.data(), scales_.data(), n, n, k, bits} {}

  const QuantizedMatrix& matrix() const { return matrix_; }
  std::vector<uint8_t> values() { return values_.Read(); }
  std::vector<uint16_t> scales() { return scales_.Read(); }

 private:
  DeviceArray<uint8_t> values_;
  DeviceArray<uint16_t> scales_;
  QuantizedMatrix matrix_;
};

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

  // In two pieces, one of them bf16: the values must be such.
  void Upload(const std::vector<float>& w, const QuantizedMatrix& to) {
    const int64_t first = to.n / 2;
    const std::vector<float> upper(w.begin(), w.begin() + first * to.k),
        lower(w.begin() + first * to.k, w.end());
    DeviceArray<float> floats(stream_, upper);
    DeviceArray<uint16_t> halves(stream_, BF16sOf(lower));
    QuantizeWeights(floats.data(), false, 0, first, to, stream_);
    QuantizeWeights(halves.data(), true, first, to.n - first, to, stream_);
  }

  std::vector<float> Product(const std::vector<float>& x, int64_t rows, const QuantizedMatrix& w) {
    const int64_t groups = GroupsFor(w.k);
    DeviceArray<uint16_t> device_x(stream_, BF16sOf(std::vector<float>(x.begin(), x.begin() + rows * w.k)));
    DeviceArray<int8_t> q(stream_, rows * groups * kGroup);
    DeviceArray<float> scales(stream_, groups * ScaleRows(rows)), y(stream_, rows * w.n);
    const QuantizedRows quantized = {q.data(), scales.data()};
    QuantizeRows(device_x.data(), rows, w.k, quantized, stream_);
    QuantizedMatMul(quantized, rows, w, y.data(), stream_);
    return y.Read();
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
    Weights device(stream_, n, k, bits_);
    Upload(w, device.matrix());
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
    Weights device(stream_, n, k, bits_);
    Upload(w, device.matrix());
    const std::vector<float> expected =
        reference::MatMulQuantized(x.data(), k, rows, w, n, k, StoredAs(bits_), {});
    SetSchedule(1);
    const std::vector<float> y = Product(x, rows, device.matrix());
    EXPECT_TRUE(SameBits(expected, y)) << n << " x " << k;
    for (const int64_t fewer : {1, 2, 16, 17, 64, 65}) {
      if (fewer > rows) break;
      SetSchedule(static_cast<int>(fewer));
      EXPECT_TRUE(
          SameBits(std::vector<float>(y.begin(), y.begin() + fewer * n), Product(x, fewer, device.matrix())))
          << fewer << " rows, " << n << " x " << k;
    }
  }
}

TEST_P(CudaQuantizedTest, EverySchedule) {
  const int64_t n = 24, k = 296, rows = 3;
  const std::vector<float> w = WeightValues(n, k), x = RoundedFloats(rows * k);
  OnEverySchedule([&] {
    Weights device(stream_, n, k, bits_);
    Upload(w, device.matrix());
    return Product(x, rows, device.matrix());
  });
}

// Part of a matrix shares its scales' stride.
TEST_P(CudaQuantizedTest, SomeOfTheRows) {
  const int64_t n = 48, k = 72, rows = 2, first = 16;
  std::vector<float> w = WeightValues(n, k);
  for (float& v : w) v = reference::RoundToBF16(v);
  const std::vector<float> x = RoundedFloats(rows * k);
  Weights device(stream_, n, k, bits_);
  Upload(w, device.matrix());
  QuantizedMatrix part = device.matrix();
  part.values += QuantizedValueBytes(first, k, bits_);
  part.scales += first;
  part.n = 24;
  const std::vector<float> all = Product(x, rows, device.matrix()), some = Product(x, rows, part);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < part.n; ++c)
      EXPECT_EQ(some[r * part.n + c], all[r * n + first + c]) << r << " " << c;
  }
}

TEST_P(CudaQuantizedTest, RowsOfTheEmbedding) {
  if (bits_ == 4) GTEST_SKIP() << "embeddings are int8 at least";
  const int64_t n = 16, k = 72;
  std::vector<float> w = WeightValues(n, k);
  for (float& v : w) v = reference::RoundToBF16(v);
  Weights device(stream_, n, k, bits_);
  Upload(w, device.matrix());
  const std::vector<int32_t> tokens = {3, 0, 15, 3};
  DeviceArray<int32_t> device_tokens(stream_, tokens);
  DeviceArray<float> hidden(stream_, tokens.size() * k);
  Embed(device.matrix(), device_tokens.data(), static_cast<int64_t>(tokens.size()), hidden.data(), stream_);
  const std::vector<float> got = hidden.Read();
  ThreadPool pool(1);
  PackedMatrix packed(n, k, Storage::kI8);
  packed.PackRows(0, n, w.data(), DType::kF32, pool);
  for (size_t r = 0; r < tokens.size(); ++r) {
    for (int64_t i = 0; i < k; ++i) EXPECT_EQ(got[r * k + i], packed.At(tokens[r], i)) << r << " " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Bits, CudaQuantizedTest, testing::Values(8, 4),
                         [](const auto& info) { return "int" + std::to_string(info.param); });

}  // namespace
}  // namespace clamor::kernels::cuda
