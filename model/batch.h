// One ragged step: rows of many sequences, whatever they are for (prompt tokens, the next token, nodes of a
// tree).
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/tree_attention.h"

namespace clamor {

struct Batch {
  // Per row. Rows of one sequence stand together.
  std::vector<int32_t> tokens;                   // ids
  std::vector<int32_t> positions;                // logical: depth in the sequence
  std::vector<int32_t> slots;                    // where the row's key and value go
  std::vector<kernels::AttentionRow> attention;  // what the row sees, itself last; borrows pages and `extra`
  std::vector<int32_t> logit_rows;               // rows whose logits are wanted, ascending

  std::vector<int32_t> extra;  // storage behind attention[].extra; reserved before rows point into it

  int64_t rows() const { return static_cast<int64_t>(tokens.size()); }
  void Clear() {
    tokens.clear();
    positions.clear();
    slots.clear();
    attention.clear();
    logit_rows.clear();
    extra.clear();
  }
};

}  // namespace clamor
