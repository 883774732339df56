// The rows of the embedding that tokens name.
//
// Tested by tests/kernels/cuda/conformance_test.cc and quantized_test.cc.
#pragma once

#include <cstdint>

#include "kernels/cuda/quantize.h"
#include "kernels/cuda/stream.h"

namespace clamor::kernels::cuda {

// hidden[r] = table[tokens[r]], widened. table: [vocabulary, n] bf16; hidden: [rows, n] fp32; n a multiple of
// 8, both 16-byte aligned.
void Embed(const uint16_t* table, const int32_t* tokens, int64_t rows, int n, float* hidden, Stream stream);
// Of a table in int8, [vocabulary, n]; n a multiple of 8.
void Embed(const QuantizedMatrix& table, const int32_t* tokens, int64_t rows, float* hidden, Stream stream);

}  // namespace clamor::kernels::cuda
