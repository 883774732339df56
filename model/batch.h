// One ragged step: rows of many sequences, whatever they are for (prompt tokens, the next token, nodes of a
// tree).
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/tree_attention.h"

namespace clamor {

// How the token after a row is drawn where no filter (top-k, top-p, min-p) and no edit of its logits is asked
// for (model/spec/sampler.h); temperature 0: nothing is drawn.
struct RowDraw {
  uint64_t seed = 0;
  int64_t position = 0;
  float temperature = 0;
};

struct Batch {
  // Per row. Rows of one sequence stand together.
  std::vector<int32_t> tokens;                   // ids
  std::vector<int32_t> positions;                // logical: depth in the sequence
  std::vector<int32_t> slots;                    // where the row's key and value go
  std::vector<kernels::AttentionRow> attention;  // what the row sees, itself last; borrows pages and `extra`
  std::vector<int32_t> logit_rows;               // rows whose logits are wanted, ascending
  std::vector<RowDraw> draws;                    // [logit_rows], or empty: no token is drawn

  std::vector<int32_t> extra;  // storage behind attention[].extra; reserved before rows point into it

  int64_t rows() const { return static_cast<int64_t>(tokens.size()); }
  void Clear() {
    tokens.clear();
    positions.clear();
    slots.clear();
    attention.clear();
    logit_rows.clear();
    draws.clear();
    extra.clear();
  }
};

}  // namespace clamor
