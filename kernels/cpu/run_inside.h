// How the tiles of products, which write whole panels, serve a last panel that is narrower.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace clamor::kernels {

// Runs a tile of `rows` <= 24 rows for which y has `columns` columns: fewer than sixteen only of one panel.
template <class Tile>
void RunInside(void (*run)(const Tile&), Tile tile, int64_t rows, int64_t columns) {
  if (columns >= 16) return run(tile);
  float y[24 * 16] = {}, bias[16] = {};
  for (int64_t r = 0; tile.accumulate && r < rows; ++r) {
    std::memcpy(y + r * 16, tile.y + r * tile.y_stride, columns * sizeof(float));
  }
  if (tile.bias != nullptr) {
    std::memcpy(bias, tile.bias, columns * sizeof(float));
    tile.bias = bias;
  }
  float* const to = tile.y;
  const size_t to_stride = tile.y_stride;
  tile.y = y;
  tile.y_stride = 16;
  run(tile);
  for (int64_t r = 0; r < rows; ++r) std::memcpy(to + r * to_stride, y + r * 16, columns * sizeof(float));
}

}  // namespace clamor::kernels
