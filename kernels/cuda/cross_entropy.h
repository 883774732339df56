// Softmax and cross-entropy in one, with the gradient of the logits.
//
// Tested by tests/kernels/cuda/conformance_test.cc.
#pragma once

#include <cstdint>

#include "kernels/cuda/stream.h"

namespace clamor::kernels::cuda {

struct CrossEntropyArgs {
  const float* logits;     // [rows, n], rows `stride` floats apart
  int64_t stride;          // at least n
  const int32_t* targets;  // [rows], each below n
  int64_t rows;
  int32_t n;
  float scale;
  float* losses;       // [rows]
  int64_t padded;      // at least rows: of d_logits
  uint16_t* d_logits;  // [padded, stride] bf16, or null: only losses are wanted
};

// losses[r] = log(sum of exp(logits[r])) - logits[r, targets[r]], by the sums of TopK (top_k.h). d_logits[r,
// i] = scale / total * exp(logits[r, i] - maximum), less scale where i is targets[r], rounded to bf16; zeros
// from n and from `rows` on.
void CrossEntropy(const CrossEntropyArgs& args, Stream stream);

}  // namespace clamor::kernels::cuda
