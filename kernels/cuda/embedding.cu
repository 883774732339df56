#include "kernels/cuda/embedding.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/numerics.h"

namespace clamor::kernels::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads)
    EmbedKernel(const uint16_t* table, const int32_t* tokens, int n, float* hidden) {
  const int64_t r = blockIdx.x;
  const uint16_t* const from = table + int64_t{tokens[r]} * n;
  float* const to = hidden + r * n;
  for (int i = 8 * static_cast<int>(threadIdx.x); i < n; i += 8 * kThreads) {
    const uint4 v = gpu::LoadVector<uint4>(from + i);
    gpu::StoreVector(to + i, float4{FromBF16(v.x & 0xffff), FromBF16(v.x >> 16), FromBF16(v.y & 0xffff),
                                    FromBF16(v.y >> 16)});
    gpu::StoreVector(to + i + 4, float4{FromBF16(v.z & 0xffff), FromBF16(v.z >> 16), FromBF16(v.w & 0xffff),
                                        FromBF16(v.w >> 16)});
  }
}

}  // namespace

void Embed(const uint16_t* table, const int32_t* tokens, int64_t rows, int n, float* hidden, Stream stream) {
  if (rows == 0) return;
  gpu::Launch({.blocks = dim3(static_cast<unsigned>(rows)), .threads = dim3(kThreads), .stream = stream},
              EmbedKernel, table, tokens, n, hidden);
}

}  // namespace clamor::kernels::cuda
