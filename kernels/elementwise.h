// Row-wise operators between the products. All arrays are fp32 and dense: row r of [rows, n] starts at r * n.
//
// Numerics: every result depends on its own row alone, by a fixed order of operations (see each function), on
// every CPU target. No libm on these paths.
//
// Tested by tests/kernels/elementwise_test.cc.
#pragma once

#include <cstdint>

#include "kernels/thread_pool.h"

namespace clamor::kernels {

// y = (x * (1 / sqrt(mean(x^2) + eps))) * weight per row (arXiv 1910.07467). Squares are summed in 16 partial
// fma chains by index mod 16, folded pairwise (i with i + 8, then + 4, + 2, + 1). y may be x. weight: [n].
void RmsNorm(const float* x, int64_t rows, int64_t n, const float* weight, float eps, float* y,
             ThreadPool& pool);

// The same for `heads` vectors of head_dim inside each row, rows `stride` floats apart, in place (q/k norm of
// Qwen3).
void RmsNormHeads(float* x, int64_t rows, int64_t stride, int heads, int head_dim, const float* weight,
                  float eps, ThreadPool& pool);

// out = x + y; out may be x or y.
void Add(const float* x, const float* y, int64_t count, float* out, ThreadPool& pool);

// x *= factor.
void Scale(float* x, float factor, int64_t count, ThreadPool& pool);

// out[r, i] = silu(gate_up[r, i]) * gate_up[r, n + i], silu(v) = v / (1 + exp(-v)); gate_up: [rows, 2n], out:
// [rows, n].
void SiluGate(const float* gate_up, int64_t rows, int64_t n, float* out, ThreadPool& pool);

// exp(x) by our own polynomial in explicit fma: within 2 ulp, exact 0 below -104, infinity above 88.73,
// exp(0) == 1, the same bits on every target. Exposed because sampling and the tests' twins need the very
// same function.
float Exp(float x);
// Natural logarithm, within 2 ulp, the same bits on every target. Log(0) is -infinity, NaN below.
float Log(float x);

}  // namespace clamor::kernels
