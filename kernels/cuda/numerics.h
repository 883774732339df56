// Arithmetic that gives the bits of kernels/cpu on the device: fma written out, everything else rounded once
// (nvcc is told -fmad=false), and our own exp.
#pragma once

#include <cstdint>

#include "kernels/cuda/gpu.h"

namespace clamor::kernels::cuda {

__device__ inline float FromBF16(uint32_t v) { return __uint_as_float(v << 16); }

// To the nearest, ties to even; NaN stays.
__device__ inline uint16_t ToBF16(float v) {
  const uint32_t bits = __float_as_uint(v);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
__device__ inline uint32_t ToBF16Pair(float low, float high) {
  return ToBF16(low) | uint32_t{ToBF16(high)} << 16;
}

// The steps of kernels/cpu/lanes-inl.h, one by one.
__device__ inline float Exp(float x) {
  x = x > -105.0f || x != x ? x : -105.0f;
  x = x < 89.0f || x != x ? x : 89.0f;
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
  const float shifted = fmaf(x, 1.44269504f, kMagic);
  const float minus_n = kMagic - shifted;
  float r = fmaf(minus_n, 0.693359375f, x);
  r = fmaf(minus_n, -2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = fmaf(p, r, 1.3981999507e-3f);
  p = fmaf(p, r, 8.3334519073e-3f);
  p = fmaf(p, r, 4.1665795894e-2f);
  p = fmaf(p, r, 1.6666665459e-1f);
  p = fmaf(p, r, 5.0000001201e-1f);
  p = fmaf(p, r * r, r) + 1.0f;
  const int exponent = static_cast<int>(__float_as_uint(shifted) - __float_as_uint(kMagic));
  const int first = exponent >> 1, second = exponent - first;
  p *= __uint_as_float(static_cast<uint32_t>(first + 127) << 23);
  return p * __uint_as_float(static_cast<uint32_t>(second + 127) << 23);
}

// The steps of Log in kernels/elementwise.cc.
__device__ inline float Log(float x) {
  if (!(x > 0.0f)) return x == 0.0f ? -INFINITY : NAN;
  if (x == INFINITY) return x;
  int exponent = 0;
  if (x < 1.17549435e-38f) {  // subnormal
    x *= 8388608.0f;
    exponent = -23;
  }
  constexpr uint32_t kSqrtHalf = 0x3f3504f3;
  const uint32_t offset = __float_as_uint(x) - kSqrtHalf;
  exponent += static_cast<int32_t>(offset) >> 23;
  const float f = __uint_as_float((offset & 0x7fffff) + kSqrtHalf) - 1.0f;
  float p = 7.0376836292e-2f;
  p = fmaf(p, f, -1.1514610310e-1f);
  p = fmaf(p, f, 1.1676998740e-1f);
  p = fmaf(p, f, -1.2420140846e-1f);
  p = fmaf(p, f, 1.4249322787e-1f);
  p = fmaf(p, f, -1.6668057665e-1f);
  p = fmaf(p, f, 2.0000714765e-1f);
  p = fmaf(p, f, -2.4999993993e-1f);
  p = fmaf(p, f, 3.3333331174e-1f);
  const float square = f * f, e = static_cast<float>(exponent);
  float y = fmaf(e, -2.12194440e-4f, p * f * square);
  y = fmaf(-0.5f, square, y);
  return fmaf(e, 0.693359375f, f + y);
}

__device__ inline float Silu(float v) { return v / (1.0f + Exp(-v)); }

// Sixteen partial sums, one in each lane by lane % 16, folded i with i + 8, then + 4, + 2, + 1. Every lane of
// the warp gets the sum. The sums in lanes 16 to 31 are not looked at.
__device__ inline float FoldSum(float partial) {
  for (int half = 8; half > 0; half /= 2) partial += __shfl_xor_sync(~0u, partial, half);
  return __shfl_sync(~0u, partial, 0);
}

}  // namespace clamor::kernels::cuda
