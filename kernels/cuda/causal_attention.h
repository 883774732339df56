// Causal attention within whole texts, forward and backward: what training needs, on tensor cores.
//
// Numerics: tiles of kTextTile positions, counted from the beginning of a text; forward goes over the tiles
// of keys in order with a running maximum, and weights are rounded to bf16 before they are summed and
// multiplied. Backward, with P = exp(score - log_sum_exp), dP = d_out * v and D = the sum of d_out * out in
// 32 partial sums by dimension mod 32: dS = (P * (dP - D)) * scale; P and dS are rounded to bf16 where they
// go into a product. dq adds up over tiles of keys in order; dk and dv over the query heads of a key head,
// and within each over blocks of 32 queries, in order. A text's result does not depend on the other texts.
//
// Tested by tests/kernels/cuda/conformance_test.cc.
#pragma once

#include <cstdint>

#include "kernels/cuda/kv_pages.h"
#include "kernels/cuda/stream.h"

namespace clamor::kernels::cuda {

inline constexpr int kTextTile = 64;

// Rows first .. min(first + kTextTile, end) - 1 of the text that is rows begin .. end - 1; first - begin is a
// multiple of kTextTile.
struct TextTile {
  int32_t begin, end, first;
};

struct CausalAttentionArgs {
  const uint16_t* q;      // [rows, heads * head_dim] bf16
  KvPages kv;             // row r's key and value are in slot r; head_dim is 16, 32, 64, 96 or 128
  const TextTile* tiles;  // [tile_count], all tiles of all texts
  int64_t tile_count;     // at most 65535
  int heads;
  float scale;
  int32_t window;      // > 0: only the last `window` positions count, the query's own included
  uint16_t* out;       // [rows, heads * head_dim] bf16
  float* log_sum_exp;  // [rows, heads], of the scaled scores
};

// All pointers are 16-byte aligned. Rows of no text are not written.
void CausalAttention(const CausalAttentionArgs& args, Stream stream);

struct CausalAttentionBackwardArgs {
  CausalAttentionArgs forward;  // as it was called, and what it wrote
  const float* d_out;           // [rows, heads * head_dim]: the gradient of out
  int64_t rows;
  uint16_t* rounded;  // [rows, heads * head_dim] bf16: room for d_out once more
  float* products;    // [rows, heads]: room for D
  float* d_qkv;       // [rows, (heads + 2 * kv_heads) * head_dim]: gets the gradients of q, k and v
};

void CausalAttentionBackward(const CausalAttentionBackwardArgs& args, Stream stream);

}  // namespace clamor::kernels::cuda
