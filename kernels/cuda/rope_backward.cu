#include "kernels/cuda/gpu.h"
#include "kernels/cuda/kv_pages.h"
#include "kernels/cuda/norm_gradient.h"
#include "kernels/cuda/numerics.h"
#include "kernels/cuda/rope_backward.h"

namespace clamor::kernels::cuda {
namespace {

constexpr int kWarps = 4;

// One warp to a head of a row: queries, then keys, then values.
__global__ void __launch_bounds__(32 * kWarps) RopeBackwardKernel(RopeBackwardArgs a) {
  GPU_SHARED(float[kWarps][kMaxHeadDim], gradients);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int h = static_cast<int>(blockIdx.x) * kWarps + warp, n = a.head_dim, half = n / 2;
  const int all_heads = a.heads + 2 * a.kv_heads;
  if (h >= all_heads) return;
  const int64_t r = blockIdx.y, at = (r * all_heads + h) * n;
  const bool is_q = h < a.heads, is_k = !is_q && h < a.heads + a.kv_heads;
  if (!is_q && !is_k) {
    for (int i = lane; i < n; i += 32) a.rounded[at + i] = ToBF16(a.d_qkv[at + i]);
    return;
  }

  float* const d = gradients[warp];
  const float* const cos = a.cos + int64_t{a.positions[r]} * half;
  const float* const sin = a.sin + int64_t{a.positions[r]} * half;
  for (int i = lane; i < half; i += 32) {
    const float x = a.d_qkv[at + i], y = a.d_qkv[at + half + i], c = cos[i], s = -sin[i];
    d[i] = fmaf(x, c, -(y * s));
    d[half + i] = fmaf(y, c, x * s);
  }
  __syncwarp();

  const float* const norm = is_q ? a.q_norm : a.k_norm;
  if (norm == nullptr) {
    for (int i = lane; i < n; i += 32) a.rounded[at + i] = ToBF16(d[i]);
    return;
  }
  const float* const x = a.qkv + at;
  const NormGradient g = SumNormGradient(x, d, norm, n, a.eps, lane);
  float* const terms =
      is_q ? a.q_terms + (r * a.heads + h) * n : a.k_terms + (r * a.kv_heads + h - a.heads) * n;
  for (int i = lane; i < n; i += 32) {
    a.rounded[at + i] = ToBF16(g.Of(x[i], d[i], norm[i]));
    terms[i] = g.OfWeight(x[i], d[i]);
  }
}

}  // namespace

void RopeBackward(const RopeBackwardArgs& args, Stream stream) {
  if (args.rows == 0) return;
  const int heads = args.heads + 2 * args.kv_heads;
  gpu::Launch({.blocks = dim3((heads + kWarps - 1) / kWarps, static_cast<unsigned>(args.rows)),
               .threads = dim3(32 * kWarps),
               .stream = stream},
              RopeBackwardKernel, args);
}

}  // namespace clamor::kernels::cuda
