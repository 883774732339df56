#include "kernels/rope.h"

#include <algorithm>

#include "kernels/cpu/ops.h"

namespace clamor::kernels {

RopeTable::RopeTable(std::span<const double> inverse_frequencies, int64_t positions)
    : half_(static_cast<int>(inverse_frequencies.size())),
      positions_(positions),
      cos_(positions * half_),
      sin_(positions * half_) {
  const auto cos_sin = kCosSin.Active();
  for (int64_t p = 0; p < positions; ++p) {
    cos_sin(static_cast<double>(p), inverse_frequencies.data(), half_, &cos_[p * half_], &sin_[p * half_]);
  }
}

namespace {

void Rotate(float* x, int64_t rows, int64_t stride, int heads, const int32_t* positions,
            const RopeTable& table, float direction, ThreadPool& pool) {
  const auto rotate = kRotate.Active();
  const int half = table.half();
  const int64_t row_size = int64_t{2} * heads * half;
  pool.ParallelFor(rows, std::max<int64_t>(1, 4096 / row_size), [&](size_t begin, size_t end) {
    for (size_t r = begin; r < end; ++r) {
      const float* cos = table.cos(positions[r]);
      const float* sin = table.sin(positions[r]);
      for (int h = 0; h < heads; ++h) {
        rotate(x + r * stride + int64_t{2} * h * half, cos, sin, direction, half);
      }
    }
  });
}

}  // namespace

void Rope(float* x, int64_t rows, int64_t stride, int heads, const int32_t* positions, const RopeTable& table,
          ThreadPool& pool) {
  Rotate(x, rows, stride, heads, positions, table, 1.0f, pool);
}

void RopeBackward(float* dx, int64_t rows, int64_t stride, int heads, const int32_t* positions,
                  const RopeTable& table, ThreadPool& pool) {
  Rotate(dx, rows, stride, heads, positions, table, -1.0f, pool);
}

float Cos(double x) {
  constexpr double kOne = 1.0;
  float cos, sin;
  kCosSin.Active()(x, &kOne, 1, &cos, &sin);
  return cos;
}

}  // namespace clamor::kernels
