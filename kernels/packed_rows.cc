#include "kernels/packed_rows.h"

#include <algorithm>
#include <cstring>

namespace clamor::kernels {
namespace {

// The chunks [begin, end).
void PackChunks(const float* x, size_t x_stride, int64_t rows, int64_t k, int64_t begin, int64_t end,
                float* packed) {
  float* to = packed + begin * rows * 16;
  for (int64_t c = begin; c < end; ++c) {
    const float* from = x + c * 16;
    const int64_t count = std::min<int64_t>(16, k - c * 16);
    if (count == 16) {  // copies of a known size need no call
      for (int64_t r = 0; r < rows; ++r, to += 16, from += x_stride)
        std::memcpy(to, from, 16 * sizeof(float));
      continue;
    }
    for (int64_t r = 0; r < rows; ++r, to += 16, from += x_stride) {
      std::fill(std::copy_n(from, count, to), to + 16, 0.0f);
    }
  }
}

}  // namespace

void PackedRows::Pack(const float* x, size_t x_stride, int64_t rows, int64_t k, ThreadPool& pool) {
  rows_ = rows;
  k_ = k;
  data_ = memory_.Get(SixteensFor(k) * rows * 16);
  pool.ParallelFor(SixteensFor(k), 4,
                   [&](size_t begin, size_t end) { PackChunks(x, x_stride, rows, k, begin, end, data_); });
}

}  // namespace clamor::kernels
