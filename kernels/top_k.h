// The k best of each row of logits, with the row's log-sum-exp, so that log-probabilities come for free.
//
// Tested by tests/kernels/top_k_test.cc.
#pragma once

#include <cstdint>

#include "kernels/thread_pool.h"

namespace clamor::kernels {

// logits: [rows, n], row stride `stride` floats. ids and values: [rows, k], best first, equal values by
// lowest id; -0.0 and 0.0 are equal; NaN never wins. If k > n, the surplus ids are -1 and values -inf.
// log_sum_exp: [rows] or null: maximum + Log(sum of Exp(x - maximum)), summed in 16 partial sums by index mod
// 16, folded as in RmsNorm; the maximum itself if it is infinite. REQUIRES: 1 <= k <= 64.
void TopK(const float* logits, int64_t stride, int64_t rows, int64_t n, int k, int32_t* ids, float* values,
          float* log_sum_exp, ThreadPool& pool);

}  // namespace clamor::kernels
