// The order of candidates that top-k and sampling share: greater values first, equal values by lowest id;
// -0.0 and 0.0 are equal; NaN is no candidate.
#pragma once

#include <cstdint>

#include "kernels/cuda/gpu.h"

namespace clamor::kernels::cuda {

// Greater for the better candidate, 0 for none, and never the same for two ids.
__device__ inline uint64_t RankOf(float value, int32_t id) {
  if (value != value) return 0;
  const uint32_t bits = __float_as_uint(value + 0.0f);  // -0.0 becomes 0.0
  const uint32_t ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
  return uint64_t{ordered} << 32 | (0xffffffffu - static_cast<uint32_t>(id));
}
__device__ inline int32_t IdOf(uint64_t rank) {
  return static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(rank));
}

__device__ inline uint64_t Better(uint64_t a, uint64_t b) { return a > b ? a : b; }
__device__ inline uint64_t BestOfWarp(uint64_t rank) {
  for (int bits = 16; bits > 0; bits /= 2) rank = Better(rank, __shfl_xor_sync(~0u, rank, bits));
  return rank;
}

}  // namespace clamor::kernels::cuda
