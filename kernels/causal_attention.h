// Causal attention within whole texts, forward and backward: what training needs, where all keys of a text
// are at hand and nothing is cached.
//
// Numerics: forward as kernels/tree_attention.h says of one chunk, however long the text, but that the masked
// keys of a block of sixteen come in with weight 0, which may turn a -0 into 0. Backward, with P the normalized weights (weight / sum), dP =
// d_out * v and D = sum over keys of P * dP in 16 partial sums by position mod 16: dS = (P * (dP - D)) *
// scale; dq is one fma chain over keys; dk and dv are one chain over (query head, query) each. A text's
// result does not depend on the other texts, threads or the CPU target.
//
// Tested by tests/kernels/causal_attention_test.cc.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/thread_pool.h"

namespace clamor::kernels {

struct CausalShape {
  int heads = 0;
  int kv_heads = 0;  // divides heads; query head h reads key head h / (heads / kv_heads)
  int head_dim = 0;
  float scale = 0;     // > 0
  int32_t window = 0;  // > 0: only the last `window` keys count, the query's own included

  int64_t row_size() const { return int64_t{heads + 2 * kv_heads} * head_dim; }
  int64_t out_size() const { return int64_t{heads} * head_dim; }
};

// Text t is the rows [starts[t], starts[t + 1]). qkv: [rows, row_size()], each row its q, then k, then v;
// out: [rows, out_size()].
void CausalAttention(const float* qkv, std::span<const int64_t> starts, const CausalShape& shape, float* out,
                     ThreadPool& pool);

// d_out: [rows, out_size()], the gradient of out; d_qkv: [rows, row_size()], that of qkv, overwritten.
void CausalAttentionBackward(const float* qkv, const float* d_out, std::span<const int64_t> starts,
                             const CausalShape& shape, float* d_qkv, ThreadPool& pool);

}  // namespace clamor::kernels
