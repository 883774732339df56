// Gradients of the products of kernels/matmul.h, y = x * w^T + bias.
//
// That of x is itself such a product: dx = dy * w, MatMul with the weights packed transposed
// (PackedMatrix::PackTransposed). Those of w and bias are here. They go on from what the output holds, one
// fp32 fma chain (of bias: one chain of additions) in row order for each element, so it does not matter to
// the bits how a batch is cut into calls, nor how many threads there are, nor which CPU target.
//
// Tested by tests/kernels/matmul_backward_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/thread_pool.h"

namespace clamor::kernels {

// dw[n, k] += sum over rows r of dy[r, n] * x[r, k]. dy: [rows, n], x: [rows, k], row strides in floats; dw:
// dense.
void AddWeightGradient(const float* dy, size_t dy_stride, const float* x, size_t x_stride, int64_t rows,
                       int64_t n, int64_t k, float* dw, ThreadPool& pool);

// db[n] += sum over rows r of dy[r, n].
void AddBiasGradient(const float* dy, size_t dy_stride, int64_t rows, int64_t n, float* db, ThreadPool& pool);

}  // namespace clamor::kernels
