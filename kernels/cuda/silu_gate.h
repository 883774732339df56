// The gate of the feed-forward part.
//
// Tested by tests/kernels/cuda/conformance_test.cc.
#pragma once

#include <cstdint>

#include "kernels/cuda/stream.h"

namespace clamor::kernels::cuda {

// out[r, i] = silu(gate_up[r, i]) * gate_up[r, n + i], the fp32 result of kernels/elementwise.h, rounded to
// bf16. gate_up: [rows, 2n] fp32; out: [rows, n] bf16; n a multiple of 8, rows at most 65535, both 16-byte
// aligned.
void SiluGate(const float* gate_up, int64_t rows, int n, uint16_t* out, Stream stream);

}  // namespace clamor::kernels::cuda
