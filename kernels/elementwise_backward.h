// Gradients of the row-wise operators of kernels/elementwise.h. Arrays are fp32 and dense unless a stride
// is given.
//
// Numerics as forward: a row's gradient depends on its row alone. Gradients of weights go on from what the
// output holds, one fma chain in row order for each element, so a batch may be cut into calls anywhere.
//
// Tested by tests/kernels/elementwise_backward_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/thread_pool.h"

namespace clamor::kernels {

// Of RmsNorm, or with heads > 1 of RmsNormHeads: vector h of row r stands at x + r * x_stride + h * n,
// likewise in dy. With s = 1 / sqrt(mean(x^2) + eps), g = weight * dy and c = (sum of x * g) * s^3 / n: dx =
// fma(-c, x, s * g), which replaces dy; dweight += dy * (x * s). The sum goes in 16 partial fma chains by
// index mod 16. dweight: [n], or null if it is not wanted.
void RmsNormBackward(const float* x, size_t x_stride, int64_t rows, int heads, int64_t n, const float* weight,
                     float eps, float* dy, size_t dy_stride, float* dweight, ThreadPool& pool);

// Of SiluGate. gate_up: [rows, 2n], replaced by its gradient; d_out: [rows, n]. With q = 1 / (1 +
// exp(-gate)): d_up = d_out * silu(gate); d_gate = d_out * up * (q * fma(gate, 1 - q, 1)).
void SiluGateBackward(float* gate_up, const float* d_out, int64_t rows, int64_t n, ThreadPool& pool);

// Of looking up rows of an embedding: d_embedding[ids[r]] += d[r] in row order. d: [rows, n].
void AddEmbeddingGradient(const int32_t* ids, const float* d, int64_t rows, int64_t n, float* d_embedding,
                          ThreadPool& pool);

}  // namespace clamor::kernels
