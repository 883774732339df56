#include "kernels/matmul_backward.h"

#include <algorithm>

#include "kernels/cpu/ops.h"

namespace clamor::kernels {

void AddWeightGradient(const PackedRows& dy, const PackedRows& x, float* dw, ThreadPool& pool) {
  const WeightGradientJob job = {
      .dy = dy.data(), .x = x.data(), .rows = dy.rows(), .n = dy.k(), .k = x.k(), .dw = dw};
  const auto add = kWeightGradientPanels.Active();
  pool.ParallelFor(SixteensFor(x.k()), 1, [&](size_t begin, size_t end) { add(job, begin, end); });
}

void AddBiasGradient(const PackedRows& dy, float* db, ThreadPool& pool) {
  pool.ParallelFor(dy.k(), 16, [&](size_t begin, size_t end) {
    for (size_t first = begin; first < end; first += 16) {
      const size_t count = std::min<size_t>(16, end - first);
      const float* row = dy.data() + first * dy.rows();
      float sums[16] = {};
      std::copy_n(db + first, count, sums);
      for (int64_t r = 0; r < dy.rows(); ++r, row += 16) {
        for (int i = 0; i < 16; ++i) sums[i] += row[i];
      }
      std::copy_n(sums, count, db + first);
    }
  });
}

}  // namespace clamor::kernels
