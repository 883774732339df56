// Weights and activations as int8 and int4 on the device: the numbers of kernels/quantized.h, bit for bit,
// laid out for tensor cores.
//
// Tested by tests/kernels/cuda/quantized_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/stream.h"
#include "kernels/quantized.h"

namespace clamor::kernels::cuda {

constexpr int64_t GroupCount(int64_t k) { return (k + kGroup - 1) / kGroup; }  // GroupsFor, for devices too

// Weights [n, k], or rows of a larger matrix. Borrowed device memory, 16-byte aligned; n a multiple of 8. A
// group takes 4 * bits bytes: int8 one q after the other; int4 as indices into kInt4Values, byte 4 t + i of
// the 16 holding those of k = 4 t + 2 i and the next for i < 2, of k = 16 + 4 t + 2 (i - 2) and the next
// otherwise, the lower k in the low half: one word is what a lane of a tensor core's warp wants.
struct QuantizedMatrix {
  uint8_t* values;       // [n][groups][4 * bits]
  uint16_t* scales;      // bf16 [groups][scale_stride]
  int64_t scale_stride;  // n of the larger matrix
  int64_t n, k;
  int bits;  // 8 or 4
};
constexpr size_t QuantizedValueBytes(int64_t n, int64_t k, int bits) {
  return static_cast<size_t>(n) * GroupCount(k) * 4 * bits;
}
constexpr size_t QuantizedScaleBytes(int64_t n, int64_t k) {
  return static_cast<size_t>(n) * GroupCount(k) * sizeof(uint16_t);
}

// Fills rows first .. first + rows - 1 of `to` with what PackedMatrix::PackRows makes of `values`: [rows, k],
// bf16 or fp32, all finite, 16-byte aligned; k a multiple of 8.
void QuantizeWeights(const void* values, bool bf16, int64_t first, int64_t rows, const QuantizedMatrix& to,
                     Stream stream);

// Rows of activations. Borrowed device memory, 16-byte aligned.
struct QuantizedRows {
  int8_t* q;      // [rows][groups][32]
  float* scales;  // [groups][ScaleRows(rows)]
};
constexpr int64_t ScaleRows(int64_t rows) { return (rows + 3) / 4 * 4; }

// As MatMul of kernels/matmul.h quantises the rows of x. x: [rows, k] bf16, k a multiple of 8; rows at most
// 65535.
void QuantizeRows(const uint16_t* x, int64_t rows, int64_t k, const QuantizedRows& to, Stream stream);

}  // namespace clamor::kernels::cuda
