// Adds a bias to the rows of a product.
//
// Tested by tests/kernels/cuda/conformance_test.cc.
#pragma once

#include <cstdint>

#include "kernels/cuda/stream.h"

namespace clamor::kernels::cuda {

// y[r, i] += bias[i], rounded once. y: [rows, n]; bias: [n]; n a multiple of 4, rows at most 65535, both
// 16-byte aligned.
void AddBias(const float* bias, int64_t rows, int n, float* y, Stream stream);

}  // namespace clamor::kernels::cuda
