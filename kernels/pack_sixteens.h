// The layout in which a product reads rows of activations: sixteen elements of each row together.
//
// Threads: calls for different chunks may run side by side. Tested by tests/kernels/matmul_test.cc and
// matmul_backward_test.cc, through the products that read it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace clamor::kernels {

// Chunks of sixteen that `count` elements need.
inline int64_t SixteensFor(int64_t count) { return (count + 15) / 16; }

// packed[c][r][i] = x[r, 16 c + i] for the chunks c of [begin, end), zeros beyond the end of a row. x: [rows,
// k], rows x_stride floats apart; packed: [SixteensFor(k)][rows][16].
void PackSixteens(const float* x, size_t x_stride, int64_t rows, int64_t k, int64_t begin, int64_t end,
                  float* packed);

}  // namespace clamor::kernels
