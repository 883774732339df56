#include "kernels/pack_sixteens.h"

#include <algorithm>
#include <cstring>

namespace clamor::kernels {

void PackSixteens(const float* x, size_t x_stride, int64_t rows, int64_t k, int64_t begin, int64_t end,
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

}  // namespace clamor::kernels
