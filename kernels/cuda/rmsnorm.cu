#include "kernels/cuda/gpu.h"
#include "kernels/cuda/numerics.h"
#include "kernels/cuda/rmsnorm.h"

namespace clamor::kernels::cuda {
namespace {

constexpr int kThreads = 128;

__device__ inline float4 Sum(const float4& a, const float4& b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
}

// One block to a row. The order of the sum is that of the CPU: sixteen chains, so half a warp sums while the
// others wait; a row of 4096 takes it 256 steps.
__global__ void __launch_bounds__(kThreads) AddRmsNormKernel(AddRmsNormArgs a) {
  GPU_DYNAMIC_SHARED(float, row);  // [n]
  GPU_SHARED(float[1], scale);
  const int64_t r = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t place = (a.which != nullptr ? a.which[r] : static_cast<int>(r)) * int64_t{a.n};
  const float* const from = a.hidden + place;
  float* const hidden = (a.sum != nullptr ? a.sum : a.hidden) + place;

  for (int i = 4 * thread; i < a.n; i += 4 * kThreads) {
    float4 v = gpu::LoadVector<float4>(from + i);
    if (a.addend != nullptr) {
      const float* part = a.addend + r * a.n + i;
      float4 add = gpu::LoadVector<float4>(part);
#pragma unroll 1
      for (int k = 1; k < a.addends; ++k) {
        part += a.addend_stride;
        add = Sum(add, gpu::LoadVector<float4>(part));
      }
      if (a.addend_bias != nullptr) add = Sum(add, gpu::LoadVector<float4>(a.addend_bias + i));
      v = Sum(v, add);
      gpu::StoreVector(hidden + i, v);
    }
    gpu::StoreVector(row + i, v);
  }
  __syncthreads();

  if (thread < 32) {
    float squares = 0.0f;
    for (int i = thread % 16; i < a.n; i += 16) squares = fmaf(row[i], row[i], squares);
    const float sum = FoldSum(squares);
    if (thread == 0) scale[0] = 1.0f / sqrtf(sum / static_cast<float>(a.n) + a.eps);
  }
  __syncthreads();

  const float s = scale[0];
  for (int i = 4 * thread; i < a.n; i += 4 * kThreads) {
    const float4 v = gpu::LoadVector<float4>(row + i), w = gpu::LoadVector<float4>(a.weight + i);
    const uint2 y = {ToBF16Pair(v.x * s * w.x, v.y * s * w.y), ToBF16Pair(v.z * s * w.z, v.w * s * w.w)};
    gpu::StoreVector(a.y + r * a.n + i, y);
  }
}

}  // namespace

void AddRmsNorm(const AddRmsNormArgs& args, Stream stream) {
  if (args.rows == 0) return;
  gpu::Launch({.blocks = dim3(static_cast<unsigned>(args.rows)),
               .threads = dim3(kThreads),
               .shared_bytes = sizeof(float) * args.n,
               .stream = stream},
              AddRmsNormKernel, args);
}

}  // namespace clamor::kernels::cuda
