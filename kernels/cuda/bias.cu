#include "kernels/cuda/bias.h"
#include "kernels/cuda/gpu.h"

namespace clamor::kernels::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) AddBiasKernel(const float* bias, int n, float* y) {
  const int i = 4 * static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (i >= n) return;
  const float4 b = gpu::LoadVector<float4>(bias + i);
  float* const at = y + int64_t{blockIdx.y} * n + i;
  const float4 v = gpu::LoadVector<float4>(at);
  gpu::StoreVector(at, float4{v.x + b.x, v.y + b.y, v.z + b.z, v.w + b.w});
}

}  // namespace

void AddBias(const float* bias, int64_t rows, int n, float* y, Stream stream) {
  if (rows == 0) return;
  gpu::Launch(
      {.blocks = dim3(static_cast<unsigned>((n / 4 + kThreads - 1) / kThreads), static_cast<unsigned>(rows)),
       .threads = dim3(kThreads),
       .stream = stream},
      AddBiasKernel, bias, n, y);
}

}  // namespace clamor::kernels::cuda
