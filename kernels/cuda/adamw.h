// The optimizer's arithmetic over flat arrays: the bits of kernels/adamw.h.
//
// Tested by tests/kernels/cuda/conformance_test.cc.
#pragma once

#include <cstdint>

#include "kernels/cuda/stream.h"

namespace clamor::kernels::cuda {

inline constexpr int64_t kSquaresPiece = 4096;
constexpr int64_t SquaresPieces(int64_t count) { return (count + kSquaresPiece - 1) / kSquaresPiece; }

// sums[p] = the sum of squares of the p-th kSquaresPiece elements, in 16 fma chains by index mod 16. sums:
// [SquaresPieces(count)].
void SumSquares(const float* x, int64_t count, float* sums, Stream stream);

// *total += each of x, in order, in double.
void AddInOrder(const float* x, int64_t count, double* total, Stream stream);

struct AdamWArgs {
  // As AdamWStep of kernels/adamw.h.
  float learning_rate, beta1, beta2, epsilon, weight_decay, correction1, correction2_root;
  // The gradient counts min(1, clip_norm / (sqrt(*squares) + 1e-6)) times; once where clip_norm is 0.
  const double* squares;
  double clip_norm;
  const float* gradients;
  float* parameters;
  float* first_moments;
  float* second_moments;
  uint16_t* rounded;  // parameters once more, in bf16, or null
  int64_t count;      // a multiple of 4
};

// All arrays are [count], 16-byte aligned.
void AdamW(const AdamWArgs& args, Stream stream);

}  // namespace clamor::kernels::cuda
