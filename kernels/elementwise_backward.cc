#include "kernels/elementwise_backward.h"

#include <algorithm>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/scratch.h"

namespace clamor::kernels {
namespace {

constexpr int64_t kGrain = 4096;  // elements below which a second thread is not worth its start

size_t RowGrain(int64_t row_size) { return static_cast<size_t>(std::max<int64_t>(1, kGrain / row_size)); }

}  // namespace

void RmsNormBackward(const float* x, size_t x_stride, int64_t rows, int heads, int64_t n, const float* weight,
                     float eps, float* dy, size_t dy_stride, float* dweight, ThreadPool& pool) {
  thread_local Scratch scratch;
  float* const scales = scratch.Get(static_cast<size_t>(rows * heads));
  // What each row needs of itself comes first, because its dy is about to go; then the sum over rows, split
  // by columns.
  const auto scale = kNormScale.Active();
  pool.ParallelFor(rows, RowGrain(heads * n), [&](size_t begin, size_t end) {
    for (size_t r = begin; r < end; ++r) {
      for (int h = 0; h < heads; ++h) scales[r * heads + h] = scale(x + r * x_stride + h * n, n, eps);
    }
  });
  if (dweight != nullptr) {
    const auto add = kAddNormWeightGradient.Active();
    pool.ParallelFor(n, 16, [&](size_t begin, size_t end) {
      for (int64_t r = 0; r < rows; ++r) {
        for (int h = 0; h < heads; ++h) {
          add(x + r * x_stride + h * n + begin, scales[r * heads + h], dy + r * dy_stride + h * n + begin,
              end - begin, dweight + begin);
        }
      }
    });
  }
  const auto backward = kRmsNormBackward.Active();
  pool.ParallelFor(rows, RowGrain(heads * n), [&](size_t begin, size_t end) {
    for (size_t r = begin; r < end; ++r) {
      for (int h = 0; h < heads; ++h) {
        backward(x + r * x_stride + h * n, scales[r * heads + h], n, weight, dy + r * dy_stride + h * n);
      }
    }
  });
}

void SiluGateBackward(float* gate_up, const float* d_out, int64_t rows, int64_t n, ThreadPool& pool) {
  const auto backward = kSiluGateBackward.Active();
  pool.ParallelFor(rows, RowGrain(n), [&](size_t begin, size_t end) {
    for (size_t r = begin; r < end; ++r) {
      backward(gate_up + r * 2 * n, gate_up + r * 2 * n + n, d_out + r * n, n);
    }
  });
}

void AddEmbeddingGradient(const int32_t* ids, const float* d, int64_t rows, int64_t n, float* d_embedding,
                          ThreadPool& pool) {
  const auto add = kAdd.Active();
  // By columns: a token that occurs twice adds twice to one row.
  pool.ParallelFor(n, 64, [&](size_t begin, size_t end) {
    for (int64_t r = 0; r < rows; ++r) {
      float* to = d_embedding + int64_t{ids[r]} * n + begin;
      add(to, d + r * n + begin, end - begin, to);
    }
  });
}

}  // namespace clamor::kernels
