// Causal attention over a paged key/value cache, for rows that may be prompt tokens, the next token, or nodes
// of a draft tree: all three are a row that sees a prefix of its sequence and then a list of further slots.
//
// Numerics (kernels/README.md): keys go by chunks of kKeyChunk logical positions, so that any number of
// threads can share a long context. In a chunk, in logical order: score = (one fma chain over head_dim) *
// scale; exact maximum; own exp of score - maximum as weight; the sum of weights in 16 partial sums by
// logical position mod 16; each output element one fma chain over keys. Chunks are folded in order: for the
// greater maximum m of both, all sums become fma(b, exp(b's maximum - m), a * exp(a's maximum - m)). In the
// end the partial sums are folded as in RmsNorm, and divide. A key that is masked (window) is skipped, never
// added as zero. So a row's result does not depend on where its keys lie, what else is in the batch, threads
// or CPU target.
//
// Tested by tests/kernels/tree_attention_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/kv_layer.h"
#include "kernels/thread_pool.h"

namespace clamor::kernels {

inline constexpr int kKeyChunk = 512;

// What one row sees: logical positions 0 .. prefix-1 through `pages`, then slots extra[0..extra_count) at
// logical positions prefix, prefix + 1, ... The row itself is the last of them, so its own position is prefix
// + extra_count - 1.
struct AttentionRow {
  const int32_t* pages = nullptr;  // [ceil(prefix / kPageSize)], of each block of kPageSize positions
  int32_t prefix = 0;
  const int32_t* extra = nullptr;  // [extra_count] slots
  int32_t extra_count = 0;
};

// q: [rows, heads * head_dim], row stride q_stride; out: the same shape, row stride out_stride. Query head h
// reads key head h / (heads / kv_heads). window > 0: only the last `window` keys of each row count (the row
// itself included). A row sees at least one key; scale > 0. Rows that share `pages` (the same pointer) should
// be adjacent: their keys are then read once. Keys in pages are read in place, extra slots are gathered for
// each row: right for the nodes of a tree, slow for hundreds. Prompt rows whose keys are in pages already,
// stored by StoreKv just before, are best described by prefix = own position + 1 and no extras.
void TreeAttention(const float* q, size_t q_stride, std::span<const AttentionRow> rows, int heads,
                   float scale, int32_t window, const KvLayer& layer, float* out, size_t out_stride,
                   ThreadPool& pool);

}  // namespace clamor::kernels
