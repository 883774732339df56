#include "kernels/top_k.h"

#include "kernels/cpu/ops.h"

namespace clamor::kernels {

void TopK(const float* logits, int64_t stride, int64_t rows, int64_t n, int k, int32_t* ids, float* values,
          float* log_sum_exp, ThreadPool& pool) {
  const auto top_k = kTopK.Active();
  pool.ParallelFor(rows, 1, [&](size_t begin, size_t end) {
    for (size_t r = begin; r < end; ++r) {
      top_k(logits + r * stride, n, k, ids + r * k, values + r * k,
            log_sum_exp == nullptr ? nullptr : log_sum_exp + r);
    }
  });
}

}  // namespace clamor::kernels
