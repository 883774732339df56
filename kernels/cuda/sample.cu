#include "kernels/cuda/gpu.h"
#include "kernels/cuda/numerics.h"
#include "kernels/cuda/ranking.h"
#include "kernels/cuda/sample.h"

namespace clamor::kernels::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;

// The first of the four numbers (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
__device__ inline uint32_t Philox(uint32_t c0, uint32_t c2, uint32_t c3, uint64_t key) {
  uint32_t c1 = 0, key0 = static_cast<uint32_t>(key), key1 = static_cast<uint32_t>(key >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * c0, product1 = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ key0;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ key1;
    c3 = static_cast<uint32_t>(product0);
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return c0;
}

__device__ inline float Noise(const Draw& draw, int32_t token) {
  const uint64_t position = static_cast<uint64_t>(draw.position);
  const uint32_t bits = Philox(static_cast<uint32_t>(token), static_cast<uint32_t>(position),
                               static_cast<uint32_t>(position >> 32), draw.seed);
  const float u = (static_cast<float>(bits >> 9) + 0.5f) * 0x1p-23f;
  return -Log(-Log(u));
}

__global__ void __launch_bounds__(kThreads) SampleKernel(SampleArgs a) {
  GPU_SHARED(uint64_t[kWarps], bests);
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t row = blockIdx.x;
  const float* const logits = a.logits + row * a.stride;
  const Draw draw = a.draws[row];

  uint64_t best = 0;
  for (int32_t i = thread; i < a.n; i += kThreads) {
    float value = logits[i];
    if (draw.temperature > 0.0f) value = value / draw.temperature + Noise(draw, i);
    best = Better(best, RankOf(value, i));
  }
  best = BestOfWarp(best);
  if (thread % 32 == 0) bests[thread / 32] = best;
  __syncthreads();
  if (thread == 0) {
    for (int w = 0; w < kWarps; ++w) best = Better(best, bests[w]);
    const bool none = best >> 32 <= RankOf(-INFINITY, 0) >> 32;
    a.tokens[row] = none ? 0 : IdOf(best);
  }
}

}  // namespace

void Sample(const SampleArgs& args, Stream stream) {
  if (args.rows == 0) return;
  gpu::Launch({.blocks = dim3(static_cast<unsigned>(args.rows)), .threads = dim3(kThreads), .stream = stream},
              SampleKernel, args);
}

}  // namespace clamor::kernels::cuda
