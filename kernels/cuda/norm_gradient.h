// The gradient of one normed vector, as kernels/elementwise_backward.h defines it, to the bit.
#pragma once

#include "kernels/cuda/gpu.h"
#include "kernels/cuda/numerics.h"

namespace clamor::kernels::cuda {

struct NormGradient {
  float scale, minus_c;

  // Of an element of x.
  __device__ float Of(float x, float dy, float weight) const {
    return fmaf(minus_c, x, scale * (weight * dy));
  }
  // What the element's weight gets of this vector.
  __device__ float OfWeight(float x, float dy) const { return dy * (x * scale); }
};

// For the 32 lanes of a warp, which all get it.
__device__ inline NormGradient SumNormGradient(const float* x, const float* dy, const float* weight, int n,
                                               float eps, int lane) {
  float squares = 0.0f, products = 0.0f;
  for (int i = lane % 16; i < n; i += 16) {
    squares = fmaf(x[i], x[i], squares);
    products = fmaf(x[i], weight[i] * dy[i], products);
  }
  const float scale = 1.0f / sqrtf(FoldSum(squares) / static_cast<float>(n) + eps);
  return {scale, -(FoldSum(products) * (scale * scale * scale) / static_cast<float>(n))};
}

}  // namespace clamor::kernels::cuda
