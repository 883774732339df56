// RMSNorm, with the residual addition that comes before it.
//
// Tested by tests/kernels/cuda/conformance_test.cc.
#pragma once

#include <cstdint>

#include "kernels/cuda/stream.h"

namespace clamor::kernels::cuda {

struct AddRmsNormArgs {
  float* hidden;        // [*, n]
  const float* addend;  // [addends][rows, n] or null: their sum is added to hidden first, which keeps it
  int addends = 1;      // summed from the first on
  int64_t addend_stride = 0;           // floats from one to the next
  const float* addend_bias = nullptr;  // [n] or null: added to the sum last
  const int32_t* which;  // [rows] or null: row r is hidden[which[r]]; for the rows whose logits are wanted
  const float* weight;   // [n]
  float eps;
  int64_t rows;
  int n;                 // a multiple of 8, at most kMaxNorm
  uint16_t* y;           // [rows, n] bf16
  float* sum = nullptr;  // [*, n] or null: keeps hidden plus addend, where hidden is to stay
};
inline constexpr int kMaxNorm = 12 * 1024 - 8;  // what 48 KiB of shared memory hold, and the scale

// y = RmsNorm(hidden), the fp32 result of kernels/elementwise.h, rounded to bf16. All pointers are 16-byte
// aligned.
void AddRmsNorm(const AddRmsNormArgs& args, Stream stream);

}  // namespace clamor::kernels::cuda
