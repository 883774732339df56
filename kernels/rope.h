// Rotary position embedding (arXiv 2104.09864), in the half-split form of the Hugging Face checkpoints:
// element i of the first half of a head is rotated with element i of the second half.
//
// Tested by tests/kernels/rope_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/thread_pool.h"

namespace clamor::kernels {

// cos and sin of position * inverse_frequency[i], computed in double by our own sine (libm differs between
// machines), within 3e-16 for products up to 1e6, and rounded once to fp32. Immutable after construction.
class RopeTable {
 public:
  // inverse_frequencies: [head_dim / 2], radians per position. Positions 0 .. positions - 1.
  RopeTable(std::span<const double> inverse_frequencies, int64_t positions);

  int64_t positions() const { return positions_; }
  int half() const { return half_; }
  const float* cos(int64_t position) const { return cos_.data() + position * half_; }  // [half]
  const float* sin(int64_t position) const { return sin_.data() + position * half_; }  // [half]

 private:
  int half_;
  int64_t positions_;
  std::vector<float> cos_, sin_;  // [positions, half]
};

// Rotates `heads` vectors of 2 * table.half() floats in each row of x in place; row r starts at x + r *
// stride and stands at position positions[r]. With a = x[i], b = x[i + half]: a' = fma(a, cos, -(b * sin)),
// b' = fma(b, cos, a * sin). REQUIRES: 0 <= positions[r] < table.positions().
void Rope(float* x, int64_t rows, int64_t stride, int heads, const int32_t* positions, const RopeTable& table,
          ThreadPool& pool);

// Its gradient: rotates back, in place. The other arguments are those of the forward call.
void RopeBackward(float* dx, int64_t rows, int64_t stride, int heads, const int32_t* positions,
                  const RopeTable& table, ThreadPool& pool);

// The cosine by which the tables are made.
float Cos(double x);

}  // namespace clamor::kernels
