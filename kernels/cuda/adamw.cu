#include "kernels/cuda/adamw.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/numerics.h"

namespace clamor::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// One warp to a piece, of which half sums.
__global__ void __launch_bounds__(kThreads) SumSquaresKernel(const float* x, int64_t count, float* sums) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t piece = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32, first = piece * kSquaresPiece;
  if (first >= count) return;
  const int64_t end = first + kSquaresPiece < count ? first + kSquaresPiece : count;
  float sum = 0.0f;
#pragma unroll 8
  for (int64_t i = first + lane % 16; i < end; i += 16) sum = fmaf(x[i], x[i], sum);
  sum = FoldSum(sum);
  if (lane == 0) sums[piece] = sum;
}

// One block: all fetch, one adds.
__global__ void __launch_bounds__(kThreads) AddInOrderKernel(const float* x, int64_t count, double* total) {
  GPU_SHARED(float[kThreads], fetched);
  const int thread = static_cast<int>(threadIdx.x);
  double sum = thread == 0 ? total[0] : 0.0;
  for (int64_t first = 0; first < count; first += kThreads) {
    const int size = count - first < kThreads ? static_cast<int>(count - first) : kThreads;
    if (thread < size) fetched[thread] = x[first + thread];
    __syncthreads();
    for (int i = 0; thread == 0 && i < size; ++i) sum += static_cast<double>(fetched[i]);
    __syncthreads();
  }
  if (thread == 0) total[0] = sum;
}

__device__ inline float Update(const AdamWArgs& a, float scale, float gradient, float parameter, float& first,
                               float& second) {
  const float g = gradient * scale;
  first = fmaf(1.0f - a.beta1, g - first, first);
  second = fmaf((1.0f - a.beta2) * g, g, a.beta2 * second);
  const float keep = 1.0f - a.learning_rate * a.weight_decay;
  return fmaf(-(a.learning_rate / a.correction1), first / (sqrtf(second) / a.correction2_root + a.epsilon),
              parameter * keep);
}

__global__ void __launch_bounds__(kThreads) AdamWKernel(AdamWArgs a) {
  GPU_SHARED(float[1], scale);
  if (threadIdx.x == 0) {
    const double wanted = a.clip_norm > 0 ? a.clip_norm / (sqrt(a.squares[0]) + 1e-6) : 1.0;
    scale[0] = static_cast<float>(wanted < 1.0 ? wanted : 1.0);
  }
  __syncthreads();
  const int64_t i = 4 * (int64_t{blockIdx.x} * kThreads + threadIdx.x);
  if (i >= a.count) return;
  const float s = scale[0];
  const float4 g = gpu::LoadVector<float4>(a.gradients + i), p = gpu::LoadVector<float4>(a.parameters + i);
  float4 m = gpu::LoadVector<float4>(a.first_moments + i), v = gpu::LoadVector<float4>(a.second_moments + i);
  const float4 next = {Update(a, s, g.x, p.x, m.x, v.x), Update(a, s, g.y, p.y, m.y, v.y),
                       Update(a, s, g.z, p.z, m.z, v.z), Update(a, s, g.w, p.w, m.w, v.w)};
  gpu::StoreVector(a.first_moments + i, m);
  gpu::StoreVector(a.second_moments + i, v);
  gpu::StoreVector(a.parameters + i, next);
  if (a.rounded != nullptr)
    gpu::StoreVector(a.rounded + i, uint2{ToBF16Pair(next.x, next.y), ToBF16Pair(next.z, next.w)});
}

unsigned BlocksFor(int64_t threads) { return static_cast<unsigned>((threads + kThreads - 1) / kThreads); }

}  // namespace

void SumSquares(const float* x, int64_t count, float* sums, Stream stream) {
  if (count == 0) return;
  gpu::Launch(
      {.blocks = dim3(BlocksFor(32 * SquaresPieces(count))), .threads = dim3(kThreads), .stream = stream},
      SumSquaresKernel, x, count, sums);
}

void AddInOrder(const float* x, int64_t count, double* total, Stream stream) {
  if (count == 0) return;
  gpu::Launch({.blocks = dim3(1), .threads = dim3(kThreads), .stream = stream}, AddInOrderKernel, x, count,
              total);
}

void AdamW(const AdamWArgs& args, Stream stream) {
  if (args.count == 0) return;
  gpu::Launch({.blocks = dim3(BlocksFor(args.count / 4)), .threads = dim3(kThreads), .stream = stream},
              AdamWKernel, args);
}

}  // namespace clamor::kernels::cuda
