#include "kernels/adamw.h"

#include <algorithm>
#include <vector>

#include "kernels/cpu/ops.h"

namespace clamor::kernels {

void AdamW(const AdamWStep& step, const float* gradients, float* parameters, float* first_moments,
           float* second_moments, int64_t count, ThreadPool& pool) {
  const auto update = kAdamW.Active();
  pool.ParallelFor(count, 4096, [&](size_t begin, size_t end) {
    update(step, gradients + begin, parameters + begin, first_moments + begin, second_moments + begin,
           static_cast<int64_t>(end - begin));
  });
}

double SumOfSquares(const float* x, int64_t count, ThreadPool& pool) {
  constexpr int64_t kPiece = 4096;
  const auto sum = kSumOfSquares.Active();
  std::vector<float> sums((count + kPiece - 1) / kPiece);
  pool.ParallelFor(sums.size(), 4, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      const int64_t first = static_cast<int64_t>(i) * kPiece;
      sums[i] = sum(x + first, std::min(kPiece, count - first));
    }
  });
  double total = 0;
  for (const float s : sums) total += s;
  return total;
}

}  // namespace clamor::kernels
