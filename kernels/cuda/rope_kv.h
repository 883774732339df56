// What lies between the product that makes queries, keys and values and attention over them: q/k norm where a
// model has it, rotary embedding, and storing keys and values in the cache.
//
// Tested by tests/kernels/cuda/conformance_test.cc.
#pragma once

#include <cstdint>

#include "kernels/cuda/kv_pages.h"
#include "kernels/cuda/stream.h"

namespace clamor::kernels::cuda {

struct RopeKvArgs {
  const float* qkv;     // [rows, (heads + 2 * kv_heads) * head_dim]
  const float* q_norm;  // [head_dim] or null
  const float* k_norm;  // likewise
  float eps;
  const float* cos;  // [positions, head_dim / 2], of kernels/rope.h
  const float* sin;
  const int32_t* positions;  // [rows]
  const int32_t* slots;      // [rows], all different
  int64_t rows;
  int heads;
  uint16_t* q;  // [rows, heads * head_dim] bf16
  KvPages kv;
};

// The fp32 results of RmsNormHeads (kernels/elementwise.h) and Rope (kernels/rope.h), rounded to bf16:
// queries to q, keys, and values as they are, to their slots.
void RopeKv(const RopeKvArgs& args, Stream stream);

}  // namespace clamor::kernels::cuda
