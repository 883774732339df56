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

__global__ void __launch_bounds__(kThreads)
    EmbedQuantizedKernel(QuantizedMatrix table, const int32_t* tokens, float* hidden) {
  const int64_t r = blockIdx.x, token = tokens[r];
  const uint8_t* const from = table.values + token * GroupCount(table.k) * kGroup;
  float* const to = hidden + r * table.k;
  for (int64_t i = 4 * threadIdx.x; i < table.k; i += 4 * kThreads) {
    const uint32_t four = gpu::LoadVector<uint32_t>(from + i);
    const float scale = FromBF16(table.scales[i / kGroup * table.scale_stride + token]);
    float v[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = static_cast<float>(static_cast<int8_t>(four >> 8 * j)) * scale;
    gpu::StoreVector(to + i, float4{v[0], v[1], v[2], v[3]});
  }
}

}  // namespace

void Embed(const uint16_t* table, const int32_t* tokens, int64_t rows, int n, float* hidden, Stream stream) {
  if (rows == 0) return;
  gpu::Launch({.blocks = dim3(static_cast<unsigned>(rows)), .threads = dim3(kThreads), .stream = stream},
              EmbedKernel, table, tokens, n, hidden);
}

void Embed(const QuantizedMatrix& table, const int32_t* tokens, int64_t rows, float* hidden, Stream stream) {
  if (rows == 0) return;
  gpu::Launch({.blocks = dim3(static_cast<unsigned>(rows)), .threads = dim3(kThreads), .stream = stream},
              EmbedQuantizedKernel, table, tokens, hidden);
}

}  // namespace clamor::kernels::cuda
