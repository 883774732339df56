// A matrix in int8 or int4 on the device, with its memory.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cuda/quantized_matmul.h"
#include "kernels/quantized.h"
#include "tests/kernels/cuda/on_device.h"

namespace clamor::kernels::cuda {

inline Storage StoredAs(int bits) { return bits == 8 ? Storage::kI8 : Storage::kI4; }

class QuantizedWeights {
 public:
  QuantizedWeights(cudaStream_t stream, int64_t n, int64_t k, int bits)
      : stream_(stream),
        values_(stream, std::vector<uint8_t>(QuantizedValueBytes(n, k, bits))),
        scales_(stream, std::vector<uint16_t>(n * GroupsFor(k))),
        matrix_{values_.data(), scales_.data(), n, n, k, bits} {}

  // [n, k], in two pieces, the second of them as bf16: its values must be such.
  void Fill(const std::vector<float>& w) {
    const int64_t first = matrix_.n / 2;
    const std::vector<float> upper(w.begin(), w.begin() + first * matrix_.k),
        lower(w.begin() + first * matrix_.k, w.end());
    DeviceArray<float> floats(stream_, upper);
    DeviceArray<uint16_t> halves(stream_, BF16sOf(lower));
    QuantizeWeights(floats.data(), false, 0, first, matrix_, stream_);
    QuantizeWeights(halves.data(), true, first, matrix_.n - first, matrix_, stream_);
  }

  const QuantizedMatrix& matrix() const { return matrix_; }
  std::vector<uint8_t> values() { return values_.Read(); }
  std::vector<uint16_t> scales() { return scales_.Read(); }

 private:
  cudaStream_t stream_;
  DeviceArray<uint8_t> values_;
  DeviceArray<uint16_t> scales_;
  QuantizedMatrix matrix_;
};

// The product of `rows` rows of x, which bf16 can hold, with `w`: [rows, n].
inline std::vector<float> ProductOnDevice(cudaStream_t stream, const std::vector<float>& x, int64_t rows,
                                          const QuantizedMatrix& w) {
  const int64_t groups = GroupsFor(w.k);
  DeviceArray<uint16_t> device_x(stream, BF16sOf(std::vector<float>(x.begin(), x.begin() + rows * w.k)));
  DeviceArray<int8_t> q(stream, rows * groups * kGroup);
  DeviceArray<float> scales(stream, groups * ScaleRows(rows)), y(stream, rows * w.n);
  const QuantizedRows quantized = {q.data(), scales.data()};
  QuantizeRows(device_x.data(), rows, w.k, quantized, stream);
  QuantizedMatMul(quantized, rows, w, y.data(), stream);
  return y.Read();
}

}  // namespace clamor::kernels::cuda
