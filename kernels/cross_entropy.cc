#include "kernels/cross_entropy.h"

#include "kernels/cpu/ops.h"
#include "kernels/elementwise.h"

namespace clamor::kernels {

void CrossEntropy(float* logits, int64_t rows, int64_t n, const int32_t* targets, float scale, float* losses,
                  ThreadPool& pool) {
  const auto softmax = kSoftmax.Active();
  pool.ParallelFor(rows, 1, [&](size_t begin, size_t end) {
    for (size_t r = begin; r < end; ++r) {
      float* const row = logits + static_cast<int64_t>(r) * n;
      const float wanted = row[targets[r]];
      losses[r] = softmax(row, n, scale) - wanted;
      row[targets[r]] -= scale;
    }
  });
}

}  // namespace clamor::kernels
