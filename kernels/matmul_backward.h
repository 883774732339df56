// Gradients of the products of kernels/matmul.h, y = x * w^T + bias.
//
// That of x is itself such a product: dx = dy * w, MatMul with the weights packed transposed
// (PackedMatrix::PackTransposed). Those of w and bias are here. They go on from what the output holds, one
// fp32 fma chain (of bias: one chain of additions) in row order for each element, so it does not matter to
// the bits how a batch is cut into calls, nor how many threads there are, nor which CPU target.
//
// Tested by tests/kernels/matmul_backward_test.cc.
#pragma once

#include "kernels/packed_rows.h"
#include "kernels/thread_pool.h"

namespace clamor::kernels {

// dw[n, k] += sum over rows r of dy[r, n] * x[r, k]. n = dy.k(), k = x.k(), as many rows in both; dw: dense.
void AddWeightGradient(const PackedRows& dy, const PackedRows& x, float* dw, ThreadPool& pool);

// db[n] += sum over rows r of dy[r, n].
void AddBiasGradient(const PackedRows& dy, float* db, ThreadPool& pool);

}  // namespace clamor::kernels
