// Attention over a paged cache for rows that may be prompt tokens, the next token, or nodes of a draft tree.
//
// Numerics: a row's result depends on its own position, keys and values alone: not on where they lie, on the
// shape of the tree, or on the other rows. For that, what is summed with what is decided by logical position.
// For a row at position p, the keys before F(p) = max(0, p - (kMaxNodes - 1)) rounded down to a multiple of
// kSplit, which are committed in every step that can see p, go through tensor cores, a split of kSplit
// positions each; the rest, in logical order the ancestors included, through one warp. In both: scores are
// fp32 times `scale`, weights are exp of score - maximum by our own exp. Splits and rest are put together
// with one fma chain in order of position, at the greatest of their maxima. In splits, weights are rounded to
// bf16 before they are summed and multiplied.
//
// Tested by tests/kernels/cuda/tree_attention_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/kv_pages.h"
#include "kernels/cuda/stream.h"

namespace clamor::kernels::cuda {

inline constexpr int kMaxNodes = 64;        // of a tree, root included
inline constexpr int kSplit = 128;          // positions
inline constexpr int kQueriesPerTile = 64;  // rows * (heads / kv_heads) of a tile

// What one row sees: positions 0 .. prefix - 1 of its sequence, through pages, then those rows of its own
// tree that `ancestors` names, in ascending order, at positions prefix, prefix + 1, ...; the row itself is
// the last of them. Prompt rows, whose keys are stored by then, have prefix = own position + 1 and no
// ancestors.
struct AttentionRow {
  uint64_t ancestors;  // bit i: row `tree` + i
  int32_t tree;        // the row of its tree's root
  int32_t prefix;
  int32_t position;  // prefix + ancestors - 1
  int32_t sequence;  // of the page table
};

// Rows of one sequence, one after the other, that share reading its keys. Surplus tiles have rows = 0.
struct AttentionTile {
  int32_t first, rows;  // rows * (heads / kv_heads) <= kQueriesPerTile
};

struct TreeAttentionArgs {
  const uint16_t* q;           // [rows, heads * head_dim] bf16
  const AttentionRow* rows;    // [row_count]
  const AttentionTile* tiles;  // [tile_count], each row in exactly one
  const int32_t* page_table;   // [sequences, pages_per_sequence]
  const int32_t* slots;        // [row_count], where each row's own key and value are stored
  int64_t row_count;
  int64_t tile_count;
  int32_t pages_per_sequence;
  int heads;  // heads / kv_heads is at most 16
  float scale;
  int32_t window;    // > 0: only the last `window` positions count, the row's own included
  KvPages kv;        // head_dim is 16, 32, 64, 96 or 128
  float* workspace;  // TreeAttentionWorkspace() floats
  uint16_t* out;     // [rows, heads * head_dim] bf16
};

// Splits that rows of sequences of up to pages_per_sequence pages can have.
constexpr int MaxSplits(int32_t pages_per_sequence) { return pages_per_sequence * kPageTokens / kSplit; }
constexpr size_t TreeAttentionWorkspace(int64_t rows, int heads, int head_dim, int32_t pages_per_sequence) {
  return static_cast<size_t>(rows) * heads * MaxSplits(pages_per_sequence) * (head_dim + 2);
}

// Everything that changes from step to step is read on the device, so that a graph can replay it. All
// pointers are 16-byte aligned.
void TreeAttention(const TreeAttentionArgs& args, Stream stream);

}  // namespace clamor::kernels::cuda
