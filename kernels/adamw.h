// The optimizer's arithmetic over flat arrays.
//
// Tested by tests/kernels/adamw_test.cc.
#pragma once

#include <cstdint>

#include "kernels/thread_pool.h"

namespace clamor::kernels {

// One step of AdamW (arXiv 1711.05101, in the order of PyTorch's torch.optim.AdamW).
struct AdamWStep {
  float learning_rate = 0;
  float beta1 = 0.9f, beta2 = 0.999f;
  float epsilon = 1e-8f;
  float weight_decay = 0;      // of this tensor
  float correction1 = 1;       // 1 - beta1^t
  float correction2_root = 1;  // sqrt(1 - beta2^t)
  float gradient_scale = 1;    // the gradient counts times this (clipping)
};

// g = gradient * gradient_scale; m = fma(1 - beta1, g - m, m); v = fma((1 - beta2) * g, g, beta2 * v);
// p = p * (1 - learning_rate * weight_decay) - (learning_rate / correction1) * (m / (sqrt(v) /
// correction2_root + epsilon)), the last by one fma.
void AdamW(const AdamWStep& step, const float* gradients, float* parameters, float* first_moments,
           float* second_moments, int64_t count, ThreadPool& pool);

// Each 4,096 elements in 16 fp32 fma chains by index mod 16; those sums in double, in order.
double SumOfSquares(const float* x, int64_t count, ThreadPool& pool);

}  // namespace clamor::kernels
