// One block to a row. Of the best that each thread has seen, the k-th best is a floor: what is not below it
// is a candidate, and mostly these are few more than k. Where they are not (long runs of the best in the ids
// of one thread), the k best are found one after the other.
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/numerics.h"
#include "kernels/cuda/ranking.h"
#include "kernels/cuda/top_k.h"

namespace clamor::kernels::cuda {
namespace {

constexpr int kThreads = kTopKSums;
constexpr int kWarps = kThreads / 32;
constexpr int kCandidates = 1024;

// How many of ranks[0 .. n) are better.
__device__ inline int CountBetter(const uint64_t* ranks, int n, uint64_t rank) {
  int better = 0;
  for (int i = 0; i < n; ++i) better += ranks[i] > rank;
  return better;
}

// The best that is worse than `limit`, for all threads. `of_warps` is scratch, free again afterwards.
__device__ inline uint64_t NextBest(const float* logits, int32_t n, uint64_t limit, uint64_t* of_warps) {
  const int thread = static_cast<int>(threadIdx.x);
  uint64_t best = 0;
  for (int32_t i = thread; i < n; i += kThreads) {
    const uint64_t rank = RankOf(logits[i], i);
    if (rank < limit) best = Better(best, rank);
  }
  best = BestOfWarp(best);
  if (thread % 32 == 0) of_warps[thread / 32] = best;
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) best = Better(best, of_warps[w]);
  __syncthreads();
  return best;
}

__global__ void __launch_bounds__(kThreads) TopKKernel(TopKArgs a) {
  GPU_SHARED(uint64_t[kThreads], bests);
  GPU_SHARED(uint64_t[kCandidates], candidates);
  GPU_SHARED(uint64_t[kMaxTopK], winners);
  GPU_SHARED(float[kWarps], sums);
  GPU_SHARED(uint64_t[1], floor_of_all);
  GPU_SHARED(int[1], found);
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t row = blockIdx.x;
  const float* const logits = a.logits + row * a.stride;

  uint64_t own = 0;
  for (int32_t i = thread; i < a.n; i += kThreads) own = Better(own, RankOf(logits[i], i));
  bests[thread] = own;
  if (thread < kMaxTopK) winners[thread] = 0;
  if (thread == 0) {
    floor_of_all[0] = 1;  // if fewer than k threads have a candidate, all candidates count
    found[0] = 0;
  }
  __syncthreads();
  if (own != 0 && CountBetter(bests, kThreads, own) == a.k - 1) floor_of_all[0] = own;
  __syncthreads();

  // The candidates, and beside them the sum for log-sum-exp.
  const uint64_t floor = floor_of_all[0];
  uint64_t best = 0;
  for (int i = 0; i < kThreads; ++i) best = Better(best, bests[i]);
  const float maximum = best == 0 ? -INFINITY : logits[IdOf(best)];
  float sum = 0.0f;
  for (int32_t i = thread; i < a.n; i += kThreads) {
    sum += Exp(logits[i] - maximum);
    const uint64_t rank = RankOf(logits[i], i);
    if (rank < floor) continue;
    const int at = atomicAdd(&found[0], 1);
    if (at < kCandidates) candidates[at] = rank;
  }
  for (int half = 16; half > 0; half /= 2) sum += __shfl_xor_sync(~0u, sum, half);
  if (thread % 32 == 0) sums[thread / 32] = sum;
  __syncthreads();

  const int count = found[0];
  if (count <= kCandidates) {
    for (int i = thread; i < count; i += kThreads) {
      const int better = CountBetter(candidates, count, candidates[i]);
      if (better < a.k) winners[better] = candidates[i];
    }
  } else {
    uint64_t limit = ~uint64_t{0};
    for (int i = 0; i < a.k && limit != 0; ++i) {
      limit = NextBest(logits, a.n, limit, bests);
      if (thread == 0) winners[i] = limit;
    }
  }
  __syncthreads();

  if (thread < a.k) {
    const uint64_t rank = winners[thread];
    a.ids[row * a.k + thread] = rank == 0 ? -1 : IdOf(rank);
    a.values[row * a.k + thread] = rank == 0 ? -INFINITY : logits[IdOf(rank)];
  }
  if (thread < 32) {
    const float all = FoldSum(sums[thread % kWarps]);
    if (thread == 0) a.log_sum_exp[row] = maximum - maximum == 0.0f ? maximum + Log(all) : maximum;
  }
}
static_assert(kWarps == 16, "FoldSum folds sixteen");

}  // namespace

void TopK(const TopKArgs& args, Stream stream) {
  if (args.rows == 0) return;
  gpu::Launch({.blocks = dim3(static_cast<unsigned>(args.rows)), .threads = dim3(kThreads), .stream = stream},
              TopKKernel, args);
}

}  // namespace clamor::kernels::cuda
