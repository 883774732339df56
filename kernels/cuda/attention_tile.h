// Attention over tiles of queries and keys in shared memory, on tensor cores: what the kernels for a cache in
// pages and those for whole texts have in common. For blocks of kTileThreads threads; each warp has sixteen
// rows of the left tile.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <type_traits>

#include "kernels/cuda/gpu.h"
#include "kernels/cuda/numerics.h"

namespace clamor::kernels::cuda {

inline constexpr int kTile = 64;  // rows of a tile
inline constexpr int kTileThreads = 32 * (kTile / 16);
inline constexpr float kMinusInfinity = -INFINITY;

// Rows of 16-bit elements in shared memory, so far apart that the 8 rows of a matrix lie in different banks.
template <int kDim, int kRows = kTile>
struct SharedTile {
  uint16_t row[kRows][kDim + 8];
};

// Fetches rows `first` and on, as far as they are before `end`; the others become zeros. at(row): where a row
// begins.
template <int kDim, int kRows, class At>
__device__ inline void FetchRows(int first, int end, At at, SharedTile<kDim, kRows>& to) {
  constexpr int kChunks = kDim / 8;  // of 16 bytes
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kChunks; i += kTileThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool there = first + row < end;
    gpu::CopyAsync(&to.row[row][8 * chunk], at(there ? first + row : first) + 8 * chunk, there ? 16 : 0);
  }
}

// scores[n] += the warp's 16 rows of `left` times rows 8 n to 8 n + 7 of `right`, as Mma() has its c.
template <int kDim, int kRows>
__device__ inline void MultiplyRows(const SharedTile<kDim>& left, const SharedTile<kDim, kRows>& right,
                                    float (&scores)[kRows / 8][4]) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int k = 0; k < kDim; k += 16) {
    uint32_t rows[4];
    gpu::LoadMatrices<false>(&left.row[16 * warp + lane % 16][k + lane / 16 * 8], rows);
#pragma unroll
    for (int n = 0; n < kRows / 8; n += 2) {
      uint32_t two[4];
      gpu::LoadMatrices<false>(&right.row[8 * n + lane / 16 * 8 + lane % 8][k + lane / 8 % 2 * 8], two);
      gpu::Mma(rows, {two[0], two[1]}, scores[n]);
      gpu::Mma(rows, {two[2], two[3]}, scores[n + 1]);
    }
  }
}

// sums[n] += of the warp's 16 rows, weights of the rows of `right` times those rows, dimensions 8 n to 8 n +
// 7. weights: as MultiplyRows leaves scores, rounded to bf16 here.
template <int kDim, int kRows>
__device__ inline void AddWeighted(const SharedTile<kDim, kRows>& right, const float (&weights)[kRows / 8][4],
                                   float (&sums)[kDim / 8][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int j = 0; j < kRows / 16; ++j) {
    const float(&low)[4] = weights[2 * j];
    const float(&high)[4] = weights[2 * j + 1];
    const uint32_t w[4] = {ToBF16Pair(low[0], low[1]), ToBF16Pair(low[2], low[3]),
                           ToBF16Pair(high[0], high[1]), ToBF16Pair(high[2], high[3])};
#pragma unroll
    for (int n = 0; n < kDim / 8; n += 2) {
      uint32_t two[4];
      gpu::LoadMatrices<true>(&right.row[16 * j + lane / 8 % 2 * 8 + lane % 8][8 * n + lane / 16 * 8], two);
      gpu::Mma(w, {two[0], two[1]}, sums[n]);
      gpu::Mma(w, {two[2], two[3]}, sums[n + 1]);
    }
  }
}

// Over the four lanes that share a row of the accumulators.
__device__ inline float QuadMax(float v) {
  v = fmaxf(v, __shfl_xor_sync(~0u, v, 1));
  return fmaxf(v, __shfl_xor_sync(~0u, v, 2));
}
__device__ inline float QuadSum(float v) {
  v += __shfl_xor_sync(~0u, v, 1);
  return v + __shfl_xor_sync(~0u, v, 2);
}

// What a lane holds of the two queries whose accumulators it shares.
struct Softmax {
  float maximum[2] = {kMinusInfinity, kMinusInfinity};
  float total[2] = {0.0f, 0.0f};
};

// Scores become weights, rounded to bf16; what was summed before is scaled down to the new maximum.
// seen(h, key): whether query h of the lane sees a key of the tile.
template <int kDim, class Seen>
__device__ inline void Weigh(float (&scores)[kTile / 8][4], float scale, Seen seen, Softmax& s,
                             float (&sums)[kDim / 8][4]) {
  const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float maximum = s.maximum[h];
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
      for (int i = 2 * h; i < 2 * h + 2; ++i) {
        scores[n][i] = seen(h, 8 * n + 2 * t + i % 2) ? scores[n][i] * scale : kMinusInfinity;
        maximum = fmaxf(maximum, scores[n][i]);
      }
    }
    maximum = QuadMax(maximum);
    const float base = maximum == kMinusInfinity ? 0.0f : maximum;  // a query that sees none of these keys
    float total = 0.0f;
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
      for (int i = 2 * h; i < 2 * h + 2; ++i) {
        scores[n][i] = FromBF16(ToBF16(Exp(scores[n][i] - base)));
        total += scores[n][i];
      }
    }
    const float shrink = Exp(s.maximum[h] - base);
    s.total[h] = fmaf(s.total[h], shrink, QuadSum(total));
    s.maximum[h] = maximum;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      sums[n][2 * h] *= shrink;
      sums[n][2 * h + 1] *= shrink;
    }
  }
}

// run(std::integral_constant<int, head_dim>()), for those that kernels are compiled for.
template <class Run>
void WithHeadDim(int head_dim, Run run) {
  switch (head_dim) {
    case 16:
      return run(std::integral_constant<int, 16>());
    case 32:
      return run(std::integral_constant<int, 32>());
    case 64:
      return run(std::integral_constant<int, 64>());
    case 96:
      return run(std::integral_constant<int, 96>());
    case 128:
      return run(std::integral_constant<int, 128>());
  }
  std::fprintf(stderr, "cuda: head_dim %d must be 16, 32, 64, 96 or 128\n", head_dim);
  std::abort();
}

}  // namespace clamor::kernels::cuda
