#include "kernels/matmul.h"

#include <algorithm>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/scratch.h"
#include "kernels/pack_sixteens.h"

namespace clamor::kernels {
namespace {

// Rows per pass over the weights: enough to hide reading them, few enough to bound the packed copy of x.
constexpr int64_t kMaxRows = 480;

// Copies x to the layout of MatMulJob::x, the elements [16 begin, 16 end) of k.
void PackX(const float* x, size_t x_stride, int64_t k, const RowBlocks& blocks, int64_t begin, int64_t end,
           float* packed) {
  for (int64_t b = 0; b < blocks.count; ++b) {
    const int64_t row = blocks.begin(b);
    PackSixteens(x + row * x_stride, x_stride, blocks.size(b), k, begin, end,
                 packed + row * SixteensFor(k) * 16);
  }
}

}  // namespace

void MatMul(const float* x, size_t x_stride, int64_t rows, const PackedMatrix& w, const float* bias, float* y,
            size_t y_stride, ThreadPool& pool) {
  thread_local Scratch scratch;
  const int64_t k = w.k();
  const int64_t panels = SixteensFor(w.n());
  for (int64_t row = 0; row < rows; row += kMaxRows) {
    const int64_t count = std::min(kMaxRows, rows - row);
    MatMulJob job = {.x = x + row * x_stride,
                     .blocks = RowBlocks(count, kMaxTileRows.Active()),
                     .w = {w.data(), w.n(), k, w.stored()},
                     .bias = bias,
                     .y = y + row * y_stride,
                     .y_stride = y_stride};
    if (count > 1) {
      float* packed = scratch.Get(count * SixteensFor(k) * 16);
      pool.ParallelFor(SixteensFor(k), 4, [&](size_t begin, size_t end) {
        PackX(job.x, x_stride, k, job.blocks, begin, end, packed);
      });
      job.x = packed;
    }
    const auto multiply = kMatMulPanels.Active();
    pool.ParallelFor(panels, 1, [&](size_t begin, size_t end) { multiply(job, begin, end); });
  }
}

}  // namespace clamor::kernels
