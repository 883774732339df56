// Puts the logits of shards side by side.
//
// Tested by tests/kernels/cuda/exchange_test.cc.
#pragma once

#include <cstdint>

#include "kernels/cuda/stream.h"

namespace clamor::kernels::cuda {

// to[r, s * n + i] = from[s][r, i]: from [shards] of [rows, n], `stride` floats apart; to [rows, shards * n];
// n a multiple of 4, rows at most 65535, both 16-byte aligned.
void JoinColumns(const float* from, int shards, int64_t stride, int64_t rows, int64_t n, float* to,
                 Stream stream);

}  // namespace clamor::kernels::cuda
