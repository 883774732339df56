// Softmax and cross-entropy in one, with the gradient in place of the logits.
//
// Tested by tests/kernels/cross_entropy_test.cc.
#pragma once

#include <cstdint>

#include "kernels/thread_pool.h"

namespace clamor::kernels {

// logits: [rows, n]. losses[r] = log(sum of exp(logits[r])) - logits[r, targets[r]], by the sums of TopK's
// log_sum_exp. Then logits[r, i] = scale * (softmax(logits[r])[i] - (i == targets[r])).
// REQUIRES: 0 <= targets[r] < n.
void CrossEntropy(float* logits, int64_t rows, int64_t n, const int32_t* targets, float scale, float* losses,
                  ThreadPool& pool);

}  // namespace clamor::kernels
