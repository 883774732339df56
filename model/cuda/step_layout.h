// How a step's batch lies in the memory that goes up to the device: arrays one behind the other, at places
// that its shape alone decides, so that a captured graph finds them again.
//
// Tested by tests/model/cuda/step_layout_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cuda/sample.h"
#include "kernels/cuda/tree_attention.h"
#include "model/batch.h"

namespace clamor {

// The sizes of a step, rounded up so that few shapes occur. Surplus rows see themselves alone and write to
// slots of their own behind the cache's; surplus wanted rows repeat row 0; surplus tiles are empty.
struct StepShape {
  int64_t rows = 0;
  int64_t wanted = 0;              // rows whose logits are wanted
  int32_t sequences = 0;           // of the page table
  int32_t pages_per_sequence = 0;  // a power of two, at least kSplit / kPageTokens
  bool draws = false;              // whether a token is drawn of any row

  // Tiles of attention: as many as rows, the most that there can be.
  bool operator==(const StepShape&) const = default;
};

// Powers of two up to kRowBlock, then multiples of it.
int64_t RoundedRows(int64_t rows);
int32_t RoundedPages(int64_t pages);

// Byte offsets of the arrays, each a multiple of 16.
struct StepPlaces {
  explicit StepPlaces(const StepShape& shape);

  size_t attention;   // AttentionRow[rows]
  size_t tiles;       // AttentionTile[rows]
  size_t tokens;      // int32_t[rows]
  size_t positions;   // int32_t[rows]
  size_t slots;       // int32_t[rows]
  size_t which;       // int32_t[wanted]
  size_t draws;       // Draw[wanted]; zeros where none is
  size_t page_table;  // int32_t[sequences][pages_per_sequence]
  size_t bytes;       // of all
};

// Fills the arrays from batches. One thread at a time.
class StepWriter {
 public:
  // `slots`: of the cache. `group`: query heads to a key head. `max_sequences`: of a batch.
  StepWriter(int64_t slots, int group, int32_t max_sequences);

  // Of the batch, which must hold rows; what Write takes.
  StepShape ShapeOf(const Batch& batch) const;
  // REQUIRES: what a row sees beside its prefix are rows of this batch at most kMaxNodes - 1 before it, in
  // ascending order, and there are no more sequences than max_sequences; ends the process otherwise.
  void Write(const Batch& batch, const StepShape& shape, std::byte* to);

 private:
  kernels::cuda::AttentionRow RowOf(const Batch& batch, int64_t row, int32_t sequence) const;

  int64_t slots_;
  int group_;
  int32_t max_sequences_;
  std::vector<int32_t> row_of_;  // [slots]: the row that last wrote there; true only if its slot says so too
};

}  // namespace clamor
