// Products with int8 and int4 weights, on tensor cores.
//
// Numerics: the bits of MatMul in kernels/matmul.h, on every GPU: dot products of groups are integers, and
// the chain over groups is in their order whatever the rows and columns of a block. A row's result does not
// depend on the other rows, and the rows need no padding.
//
// Tested by tests/kernels/cuda/quantized_test.cc.
#pragma once

#include <cstdint>

#include "kernels/cuda/quantize.h"
#include "kernels/cuda/stream.h"

namespace clamor::kernels::cuda {

// y[r, c] = x row r times weights row c. y: [rows, w.n] fp32; rows at most 64 * 65535.
void QuantizedMatMul(const QuantizedRows& x, int64_t rows, const QuantizedMatrix& w, float* y, Stream stream);

}  // namespace clamor::kernels::cuda
