// The k best of each row of logits, with the row's log-sum-exp, so that logits never leave the device.
//
// Tested by tests/kernels/cuda/top_k_test.cc.
#pragma once

#include <cstdint>

#include "kernels/cuda/stream.h"

namespace clamor::kernels::cuda {

inline constexpr int kMaxTopK = 64;
inline constexpr int kTopKSums = 512;

struct TopKArgs {
  const float* logits;  // [rows, n], rows `stride` floats apart
  int64_t stride;
  int64_t rows;
  int32_t n;
  int k;               // 1 .. kMaxTopK
  int32_t* ids;        // [rows, k]
  float* values;       // [rows, k]
  float* log_sum_exp;  // [rows]
};

// As TopK of kernels/top_k.h, but for the order in which log-sum-exp is summed: kTopKSums partial sums by
// index mod kTopKSums; 32 of them at a time are folded i with i + 16, then + 8, ... + 1; the sixteen sums
// that leaves likewise from + 8 on.
void TopK(const TopKArgs& args, Stream stream);

}  // namespace clamor::kernels::cuda
