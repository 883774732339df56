#include "kernels/cuda/gpu.h"
#include "kernels/cuda/join_columns.h"

namespace clamor::kernels::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads)
    JoinColumnsKernel(const float* from, int shards, int64_t stride, int64_t n, float* to) {
  const int64_t i = 4 * (int64_t{blockIdx.x} * kThreads + threadIdx.x), r = blockIdx.y, shard = i / n;
  if (shard >= shards) return;
  gpu::StoreVector(to + r * shards * n + i, gpu::LoadVector<float4>(from + shard * stride + r * n + i % n));
}

}  // namespace

void JoinColumns(const float* from, int shards, int64_t stride, int64_t rows, int64_t n, float* to,
                 Stream stream) {
  if (rows == 0) return;
  const unsigned across = static_cast<unsigned>((shards * n / 4 + kThreads - 1) / kThreads);
  gpu::Launch(
      {.blocks = dim3(across, static_cast<unsigned>(rows)), .threads = dim3(kThreads), .stream = stream},
      JoinColumnsKernel, from, shards, stride, n, to);
}

}  // namespace clamor::kernels::cuda
