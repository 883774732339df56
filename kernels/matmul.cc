#include "kernels/matmul.h"

#include <algorithm>

#include "kernels/cpu/ops.h"

namespace clamor::kernels {
namespace {

// Rows per pass over the weights: enough to hide reading them, few enough to bound the packed copy of x.
constexpr int64_t kMaxRows = 480;
// Up to as many, one panel at a time is faster, and 16 bits need not be widened in memory first.
constexpr int64_t kNarrowRows = 96;
// Groups of activations that are worth a thread's while to quantise.
constexpr int64_t kQuantizeGrain = 64;

// `count` rows of packed x, from the one at `first` on.
void Multiply(const float* first, int64_t x_rows, int64_t count, const PackedMatrix& w, const float* bias,
              float* y, size_t y_stride, ThreadPool& pool) {
  const bool wide = count > kNarrowRows;
  const int limit = wide ? kWideTileRows.Active() : kMaxTileRows.Active();
  const MatMulJob job = {.x = first,
                         .x_rows = x_rows,
                         .blocks = RowBlocks(count, limit),
                         .w = {w.data(), w.n(), w.k(), w.stored()},
                         .bias = bias,
                         .y = y,
                         .y_stride = y_stride,
                         .wide = wide};
  const auto multiply = kMatMulPanels.Active();
  pool.ParallelFor(SixteensFor(w.n()), 1, [&](size_t begin, size_t end) { multiply(job, begin, end); });
}

// `rows` rows of x, quantised first.
void MultiplyQuantized(const float* x, size_t x_stride, int64_t rows, const PackedMatrix& w,
                       const float* bias, float* y, size_t y_stride, ThreadPool& pool) {
  thread_local Scratch memory;
  const int64_t groups = GroupsFor(w.k());
  RowGroup* const quantized =
      reinterpret_cast<RowGroup*>(memory.Get(groups * rows * sizeof(RowGroup) / sizeof(float)));
  const QuantizeJob quantize_job = {.x = x,
                                    .x_stride = x_stride,
                                    .rows = rows,
                                    .k = w.k(),
                                    .zero_point = ZeroPoint(w.stored()),
                                    .out = quantized};
  const auto quantize = kQuantizeRows.Active();
  const int64_t grain = std::max<int64_t>(1, kQuantizeGrain / rows);
  pool.ParallelFor(groups, grain, [&](size_t begin, size_t end) { quantize(quantize_job, begin, end); });
  const QuantizedJob job = {.x = quantized,
                            .rows = rows,
                            .w = {w.data(), w.n(), w.k(), w.stored()},
                            .bias = bias,
                            .y = y,
                            .y_stride = y_stride};
  pool.ParallelFor(SixteensFor(w.n()), 1,
                   [&](size_t begin, size_t end) { MultiplyQuantizedPanels(job, begin, end); });
}

}  // namespace

void MatMul(const PackedRows& x, const PackedMatrix& w, const float* bias, float* y, size_t y_stride,
            ThreadPool& pool) {
  for (int64_t row = 0; row < x.rows(); row += kMaxRows) {
    Multiply(x.data() + row * 16, x.rows(), std::min(kMaxRows, x.rows() - row), w, bias, y + row * y_stride,
             y_stride, pool);
  }
}

void MatMul(const float* x, size_t x_stride, int64_t rows, const PackedMatrix& w, const float* bias, float* y,
            size_t y_stride, ThreadPool& pool) {
  if (IsQuantized(w.stored())) {
    for (int64_t row = 0; row < rows; row += kMaxRows) {
      MultiplyQuantized(x + row * x_stride, x_stride, std::min(kMaxRows, rows - row), w, bias,
                        y + row * y_stride, y_stride, pool);
    }
    return;
  }
  if (rows == 1) return Multiply(x, 1, 1, w, bias, y, y_stride, pool);  // a row alone is packed as it is
  thread_local PackedRows packed;
  for (int64_t row = 0; row < rows; row += kMaxRows) {
    packed.Pack(x + row * x_stride, x_stride, std::min(kMaxRows, rows - row), w.k(), pool);
    MatMul(packed, w, bias, y + row * y_stride, y_stride, pool);
  }
}

}  // namespace clamor::kernels
