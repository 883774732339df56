// The gradient of what rope_kv.h computes: of the product that makes queries, keys and values.
//
// Tested by tests/kernels/cuda/conformance_test.cc.
#pragma once

#include <cstdint>

#include "kernels/cuda/stream.h"

namespace clamor::kernels::cuda {

struct RopeBackwardArgs {
  const float* d_qkv;   // [rows, (heads + 2 * kv_heads) * head_dim]: of queries, keys and values
  const float* qkv;     // likewise, what went into RopeKv; needed where there is a norm
  const float* q_norm;  // [head_dim] or null
  const float* k_norm;  // likewise
  float eps;
  const float* cos;  // [positions, head_dim / 2], of kernels/rope.h
  const float* sin;
  const int32_t* positions;  // [rows]
  int64_t rows;              // at most 65535
  int heads, kv_heads;
  int head_dim;       // a multiple of 16, at most kMaxHeadDim of kv_pages.h
  uint16_t* rounded;  // [rows, (heads + 2 * kv_heads) * head_dim] bf16: the gradient of qkv
  // What AddRowSums is to sum for the gradients of the norms; null without.
  float* q_terms;  // [rows * heads, head_dim]
  float* k_terms;  // [rows * kv_heads, head_dim]
};

// The fp32 results of RopeBackward (kernels/rope.h) and RmsNormBackward (kernels/elementwise_backward.h),
// rounded to bf16.
void RopeBackward(const RopeBackwardArgs& args, Stream stream);

}  // namespace clamor::kernels::cuda
