#include "kernels/matmul_backward.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/scratch.h"
#include "kernels/pack_sixteens.h"

namespace clamor::kernels {
namespace {

// Rows of the batch, which are the product's inner dimension, and rows of dw per pass: both operands of a
// pass stay in the second-level cache.
constexpr int64_t kRows = 512;
constexpr int64_t kOutputs = 480;

// For a few floats a call of memcpy would cost more than the copying.
inline void CopyFew(const float* from, int64_t count, float* to) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) std::memcpy(to + i, from + i, 8 * sizeof(float));
  for (; i < count; ++i) to[i] = from[i];
}

// The columns of dy that a block of dw's rows needs, row by row.
void PackBlocks(const float* dy, size_t stride, int64_t rows, const RowBlocks& blocks, int64_t begin,
                int64_t end, float* packed) {
  for (int64_t b = begin; b < end; ++b) {
    const int64_t size = blocks.size(b);
    float* to = packed + blocks.begin(b) * rows;
    const float* from = dy + blocks.begin(b);
    for (int64_t r = 0; r < rows; ++r, to += size, from += stride) CopyFew(from, size, to);
  }
}

}  // namespace

void AddWeightGradient(const float* dy, size_t dy_stride, const float* x, size_t x_stride, int64_t rows,
                       int64_t n, int64_t k, float* dw, ThreadPool& pool) {
  thread_local Scratch scratch;
  const int64_t panels = SixteensFor(k);
  const auto multiply = kMatMulPanels.Active();
  for (int64_t row = 0; row < rows; row += kRows) {
    const int64_t count = std::min(kRows, rows - row);
    float* const packed_x = scratch.Get(static_cast<size_t>(count * (panels * 16 + std::min(n, kOutputs))));
    float* const packed_dy = packed_x + count * panels * 16;
    pool.ParallelFor(panels, 4, [&](size_t begin, size_t end) {
      PackSixteens(x + row * x_stride, x_stride, count, k, begin, end, packed_x);
    });
    for (int64_t out = 0; out < n; out += kOutputs) {
      const RowBlocks blocks(std::min(kOutputs, n - out), kMaxTileRows.Active());
      pool.ParallelFor(blocks.count, 4, [&](size_t begin, size_t end) {
        PackBlocks(dy + row * dy_stride + out, dy_stride, count, blocks, begin, end, packed_dy);
      });
      const MatMulJob job = {.x = packed_dy,
                             .blocks = blocks,
                             .w = {packed_x, k, count, DType::kF32},
                             .bias = nullptr,
                             .y = dw + out * k,
                             .y_stride = static_cast<size_t>(k),
                             .x_by_columns = true,
                             .accumulate = true};
      pool.ParallelFor(panels, 1, [&](size_t begin, size_t end) { multiply(job, begin, end); });
    }
  }
}

void AddBiasGradient(const float* dy, size_t dy_stride, int64_t rows, int64_t n, float* db,
                     ThreadPool& pool) {
  const auto add = kAdd.Active();
  pool.ParallelFor(n, 256, [&](size_t begin, size_t end) {
    for (int64_t r = 0; r < rows; ++r) add(db + begin, dy + r * dy_stride + begin, end - begin, db + begin);
  });
}

}  // namespace clamor::kernels
