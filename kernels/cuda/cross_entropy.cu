#include "kernels/cuda/cross_entropy.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/numerics.h"
#include "kernels/cuda/top_k.h"

namespace clamor::kernels::cuda {
namespace {

constexpr int kThreads = kTopKSums;
constexpr int kWarps = kThreads / 32;

// One block to a row.
__global__ void __launch_bounds__(kThreads) CrossEntropyKernel(CrossEntropyArgs a) {
  GPU_SHARED(float[kWarps], of_warps);
  GPU_SHARED(float[1], total);
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t row = blockIdx.x;
  uint16_t* const d = a.d_logits == nullptr ? nullptr : a.d_logits + row * a.stride;
  if (row >= a.rows) {
    for (int64_t i = thread; d != nullptr && i < a.stride; i += kThreads) d[i] = 0;
    return;
  }
  const float* const logits = a.logits + row * a.stride;

  float maximum = -INFINITY;
  for (int32_t i = thread; i < a.n; i += kThreads) maximum = fmaxf(maximum, logits[i]);
  for (int bits = 16; bits > 0; bits /= 2) maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, bits));
  if (thread % 32 == 0) of_warps[thread / 32] = maximum;
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) maximum = fmaxf(maximum, of_warps[w]);
  __syncthreads();

  float sum = 0.0f;
  for (int32_t i = thread; i < a.n; i += kThreads) sum += Exp(logits[i] - maximum);
  for (int half = 16; half > 0; half /= 2) sum += __shfl_xor_sync(~0u, sum, half);
  if (thread % 32 == 0) of_warps[thread / 32] = sum;
  __syncthreads();
  const int32_t target = a.targets[row];
  if (thread < 32) {
    const float all = FoldSum(of_warps[thread % kWarps]);
    if (thread == 0) {
      total[0] = all;
      a.losses[row] = maximum + Log(all) - logits[target];
    }
  }
  if (d == nullptr) return;
  __syncthreads();

  const float factor = a.scale / total[0];
  for (int64_t i = thread; i < a.stride; i += kThreads) {
    float v = i < a.n ? Exp(logits[i] - maximum) * factor : 0.0f;
    if (i == target) v -= a.scale;
    d[i] = ToBF16(v);
  }
}
static_assert(kWarps == 16, "FoldSum folds sixteen");

}  // namespace

void CrossEntropy(const CrossEntropyArgs& args, Stream stream) {
  const int64_t blocks = args.d_logits != nullptr ? args.padded : args.rows;
  if (blocks == 0) return;
  gpu::Launch({.blocks = dim3(static_cast<unsigned>(blocks)), .threads = dim3(kThreads), .stream = stream},
              CrossEntropyKernel, args);
}

}  // namespace clamor::kernels::cuda
