// Draws a token of each row of logits by the Gumbel trick, as model/spec/sampler.h defines it where no filter
// (top-k, top-p, min-p) is asked for.
//
// Tested by tests/kernels/cuda/top_k_test.cc.
#pragma once

#include <cstdint>

#include "kernels/cuda/stream.h"

namespace clamor::kernels::cuda {

// How a row is drawn: argmax of logit / temperature + noise, where noise is -log(-log(u)) and u the first 23
// bits of Philox 4x32-10 keyed by seed, counter (token, position); at temperature 0 argmax of the logits.
struct Draw {
  uint64_t seed;
  int64_t position;
  float temperature;
};

struct SampleArgs {
  const float* logits;  // [rows, n], rows `stride` floats apart
  int64_t stride;
  int64_t rows;
  int32_t n;
  const Draw* draws;  // [rows]
  int32_t* tokens;    // [rows]; ties go to the lowest id, NaN is never drawn, 0 if all are NaN or -infinity
};

void Sample(const SampleArgs& args, Stream stream);

}  // namespace clamor::kernels::cuda
