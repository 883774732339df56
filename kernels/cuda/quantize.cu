#include <array>

#include "kernels/cuda/gpu.h"
#include "kernels/cuda/numerics.h"
#include "kernels/cuda/quantize.h"

namespace clamor::kernels::cuda {
namespace {

constexpr int kThreads = 128;

// ---- weights: the steps of kernels/cpu/quantize.cc, one thread to a group

__device__ inline float UpToBF16(float v) {  // v >= 0
  return __uint_as_float((__float_as_uint(v) + 0xffff) & 0xffff0000u);
}
// To the nearest integer, ties to even; |v| < 2^22.
__device__ inline int Nearest(float v) {
  constexpr float kMagic = 12582912.0f;
  return static_cast<int>(__float_as_uint(v + kMagic) - __float_as_uint(kMagic));
}
__device__ inline float InverseOf(float scale, float largest) {
  return largest < kLeastMagnitude ? 0.0f : 1.0f / scale;
}

constexpr std::array<float, 16> Int4Values() {
  std::array<float, 16> values{};
  for (int i = 0; i < 16; ++i) values[i] = kInt4Values[i];
  return values;
}
struct Int4 {
  int index;
  float value;
};
__device__ inline Int4 NearestInt4(float x) {
  constexpr std::array<float, 16> kValues = Int4Values();
  Int4 nearest = {0, kValues[0]};
#pragma unroll
  for (int i = 1; i < 16; ++i) {
    if (x > 0.5f * (kValues[i - 1] + kValues[i])) nearest = {i, kValues[i]};
  }
  return nearest;
}

// `extreme`: the first value of largest magnitude.
__device__ inline float BestInt4Scale(const float (&w)[kGroup], float extreme) {
  constexpr int kFirst = 22, kLast = 36;  // where `extreme` may come to lie
  float best = 0.0f, least_error = INFINITY;
#pragma unroll 1
  for (int reach = kFirst; reach <= kLast; ++reach) {
    const float scale = FromBF16(ToBF16(extreme / static_cast<float>(-reach)));
    const float inverse = InverseOf(scale, fabsf(extreme));
    float error = 0.0f;
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      const float miss = w[k] - NearestInt4(w[k] * inverse).value * scale;
      error = fmaf(miss, miss, error);
    }
    if (reach == kFirst || error < least_error) best = scale;
    if (error < least_error) least_error = error;
  }
  return best;
}

// Four values, or zeros behind the end of the row.
__device__ inline float4 LoadFour(const void* values, bool bf16, int64_t at, bool there) {
  if (!there) return float4{0.0f, 0.0f, 0.0f, 0.0f};
  if (!bf16) return gpu::LoadVector<float4>(static_cast<const float*>(values) + at);
  const uint2 v = gpu::LoadVector<uint2>(static_cast<const uint16_t*>(values) + at);
  return float4{FromBF16(v.x & 0xffff), FromBF16(v.x >> 16), FromBF16(v.y & 0xffff), FromBF16(v.y >> 16)};
}

__global__ void __launch_bounds__(kThreads)
    QuantizeWeightsKernel(const void* values, bool bf16, int64_t first, int64_t rows, QuantizedMatrix to) {
  const int64_t groups = GroupCount(to.k), i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= rows * groups) return;
  const int64_t row = i / groups, group = i % groups;
  float w[kGroup];
#pragma unroll
  for (int k = 0; k < kGroup; k += 4) {
    const int64_t column = group * kGroup + k;
    const float4 four = LoadFour(values, bf16, row * to.k + column, column < to.k);
    w[k] = four.x;
    w[k + 1] = four.y;
    w[k + 2] = four.z;
    w[k + 3] = four.w;
  }
  float extreme = 0.0f;
#pragma unroll
  for (int k = 0; k < kGroup; ++k) extreme = fabsf(w[k]) > fabsf(extreme) ? w[k] : extreme;
  const float largest = fabsf(extreme);
  float scale = to.bits == 8 ? UpToBF16(largest / 127.0f) : BestInt4Scale(w, extreme);
  if (largest < kLeastMagnitude) scale = 0.0f;
  const float inverse = InverseOf(scale, largest);
  to.scales[group * to.scale_stride + first + row] = static_cast<uint16_t>(__float_as_uint(scale) >> 16);

  uint8_t* const out = to.values + ((first + row) * groups + group) * 4 * to.bits;
  if (to.bits == 8) {
#pragma unroll
    for (int k = 0; k < kGroup; k += 4) {
      uint32_t four = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j)
        four |= (static_cast<uint32_t>(Nearest(w[k + j] * inverse)) & 0xff) << 8 * j;
      gpu::StoreVector(out + k, four);
    }
    return;
  }
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    uint32_t eight = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int k = 4 * t + j % 4 + j / 4 * 16;
      eight |= static_cast<uint32_t>(NearestInt4(w[k] * inverse).index) << 4 * j;
    }
    gpu::StoreVector(out + 4 * t, eight);
  }
}

// ---- activations: four threads to a group

__global__ void __launch_bounds__(kThreads)
    QuantizeRowsKernel(const uint16_t* x, int64_t k, int64_t scale_rows, QuantizedRows to) {
  const int64_t groups = GroupCount(k), chunk = int64_t{blockIdx.x} * kThreads + threadIdx.x,
                group = chunk / 4;
  const int64_t row = blockIdx.y;
  const bool there = 8 * chunk < k;  // k is a multiple of 8; what is behind it counts as zeros
  uint4 v = {0, 0, 0, 0};
  if (there) v = gpu::LoadVector<uint4>(x + row * k + 8 * chunk);
  const uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
  // Among bit patterns without sign, infinity is above all numbers and NaN above infinity.
  uint32_t bits = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t low = pairs[i] << 16 & 0x7fffffff, high = pairs[i] & 0x7fff0000;
    bits = bits > low ? bits : low;
    bits = bits > high ? bits : high;
  }
  for (int other = 1; other < 4; other *= 2) {
    const uint32_t theirs = __shfl_xor_sync(~0u, bits, other);
    bits = bits > theirs ? bits : theirs;
  }
  if (group >= groups) return;
  const float magnitude = __uint_as_float(bits);
  const bool zeros = magnitude < kLeastMagnitude, finite = bits < 0x7f800000;
  const float inverse = zeros || !finite ? 0.0f : 127.0f / magnitude;
  uint32_t fours[2] = {0, 0};
  if (finite) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t low = static_cast<uint32_t>(Nearest(FromBF16(pairs[i] & 0xffff) * inverse)) & 0xff;
      const uint32_t high = static_cast<uint32_t>(Nearest(FromBF16(pairs[i] >> 16) * inverse)) & 0xff;
      fours[i / 2] |= (low | high << 8) << 16 * (i % 2);
    }
  }
  gpu::StoreVector(to.q + row * groups * kGroup + 8 * chunk, uint2{fours[0], fours[1]});
  if (chunk % 4 == 0) {
    to.scales[group * scale_rows + row] = zeros ? 0.0f : finite ? magnitude / 127.0f : NAN;
  }
}

}  // namespace

void QuantizeWeights(const void* values, bool bf16, int64_t first, int64_t rows, const QuantizedMatrix& to,
                     Stream stream) {
  const int64_t groups = rows * GroupCount(to.k);
  if (groups == 0) return;
  gpu::Launch({.blocks = dim3(static_cast<unsigned>((groups + kThreads - 1) / kThreads)),
               .threads = dim3(kThreads),
               .stream = stream},
              QuantizeWeightsKernel, values, bf16, first, rows, to);
}

void QuantizeRows(const uint16_t* x, int64_t rows, int64_t k, const QuantizedRows& to, Stream stream) {
  if (rows == 0) return;
  const unsigned across = static_cast<unsigned>((4 * GroupCount(k) + kThreads - 1) / kThreads);
  gpu::Launch(
      {.blocks = dim3(across, static_cast<unsigned>(rows)), .threads = dim3(kThreads), .stream = stream},
      QuantizeRowsKernel, x, k, ScaleRows(rows), to);
}

}  // namespace clamor::kernels::cuda
