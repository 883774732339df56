#include "kernels/cuda/gpu.h"
#include "kernels/cuda/numerics.h"
#include "kernels/cuda/rope_kv.h"

namespace clamor::kernels::cuda {
namespace {

constexpr int kWarps = 4;

// Normalises the head in place.
__device__ inline void NormHead(float* head, int n, const float* weight, float eps, int lane) {
  float squares = 0.0f;
  for (int i = lane % 16; i < n; i += 16) squares = fmaf(head[i], head[i], squares);
  const float scale = 1.0f / sqrtf(FoldSum(squares) / static_cast<float>(n) + eps);
  __syncwarp();
  for (int i = lane; i < n; i += 32) head[i] = head[i] * scale * weight[i];
  __syncwarp();
}

// One warp to a head of a row: queries, then keys, then values.
__global__ void __launch_bounds__(32 * kWarps) RopeKvKernel(RopeKvArgs a) {
  GPU_SHARED(float[kWarps][kMaxHeadDim], heads);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int h = static_cast<int>(blockIdx.x) * kWarps + warp;
  const int all_heads = a.heads + 2 * a.kv.kv_heads, n = a.kv.head_dim, half = n / 2;
  if (h >= all_heads) return;
  const int64_t r = blockIdx.y;
  const bool is_q = h < a.heads, is_k = !is_q && h < a.heads + a.kv.kv_heads;

  float* const head = heads[warp];
  const float* const from = a.qkv + (r * all_heads + h) * n;
  for (int i = 4 * lane; i < n; i += 4 * 32) gpu::StoreVector(head + i, gpu::LoadVector<float4>(from + i));
  __syncwarp();

  const float* const norm = is_q ? a.q_norm : is_k ? a.k_norm : nullptr;
  if (norm != nullptr) NormHead(head, n, norm, a.eps, lane);

  const int kv_head = is_k ? h - a.heads : h - a.heads - a.kv.kv_heads;
  uint16_t* to = a.q + (r * a.heads + h) * n;
  if (!is_q) to = (is_k ? a.kv.keys : a.kv.values) + KvElement(a.slots[r], kv_head, a.kv.kv_heads, n);
  if (!is_q && !is_k) {
    for (int i = 2 * lane; i < n; i += 2 * 32) gpu::StoreVector(to + i, ToBF16Pair(head[i], head[i + 1]));
    return;
  }
  const float* const cos = a.cos + int64_t{a.positions[r]} * half;
  const float* const sin = a.sin + int64_t{a.positions[r]} * half;
  for (int i = lane; i < half; i += 32) {
    const float x = head[i], y = head[half + i], c = cos[i], s = sin[i];
    to[i] = ToBF16(fmaf(x, c, -(y * s)));
    to[half + i] = ToBF16(fmaf(y, c, x * s));
  }
}

}  // namespace

void RopeKv(const RopeKvArgs& args, Stream stream) {
  if (args.rows == 0) return;
  const int heads = args.heads + 2 * args.kv.kv_heads;
  gpu::Launch({.blocks = dim3((heads + kWarps - 1) / kWarps, static_cast<unsigned>(args.rows)),
               .threads = dim3(32 * kWarps),
               .stream = stream},
              RopeKvKernel, args);
}

}  // namespace clamor::kernels::cuda
