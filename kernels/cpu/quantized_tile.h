// What the inner loop of products with int8 and int4 weights works on: cpu/quantized_tile-inl.h has it once
// for each set of instructions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/quantized.h"

namespace clamor::kernels {

// y[r, c] = (accumulate ? y[r, c] : 0) + the sum over groups, one fma chain; then the bias is added. The
// columns c are those of one or several panels.
struct QuantizedTile {
  const RowGroup* x;  // [groups][x_step], the rows of the tile first
  int64_t x_step;
  const uint8_t* w;    // of the first panel, from a pair of groups on
  int64_t panel_step;  // bytes from one panel to the next
  int64_t groups;
  float* y;
  size_t y_stride;
  const float* bias;  // [columns] or null
  bool accumulate;
  // What to fetch meanwhile: of each panel this address, and for each line one `prefetch_step` bytes further.
  const char* prefetch;
  int64_t prefetch_panel_step;  // bytes from one panel to the next
  int64_t prefetch_step;
};
using QuantizedTileFn = void (*)(const QuantizedTile& tile);

struct QuantizedTiles {
  int rows;       // the most of one panel
  int panels;     // the most
  int wide_rows;  // the most of `panels` panels
  // `panels` is 1 or the most.
  QuantizedTileFn (*tile_for)(Storage stored, int64_t panels, int64_t rows);
};

}  // namespace clamor::kernels
