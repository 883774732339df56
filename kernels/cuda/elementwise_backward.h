// Gradients of what lies between the products, and sums over rows for vectors of weights.
//
// Numerics as forward: a row's gradient is the CPU's fp32 result (kernels/elementwise_backward.h), rounded to
// bf16 where it goes into a product. Only sums over rows differ: they go by kSumRows rows, counted from the
// first, each an fp32 chain in row order, and those sums are added in order.
//
// Tested by tests/kernels/cuda/conformance_test.cc.
#pragma once

#include <cstdint>

#include "kernels/cuda/stream.h"

namespace clamor::kernels::cuda {

struct RmsNormBackwardArgs {
  const float* x;        // [*, n], what was normed
  const int32_t* which;  // [rows], all different, or null: row r is row which[r] of x, d and rounded
  const float* weight;   // [n]
  float eps;
  const float* dy;  // [rows, n], the gradient of the result
  int64_t rows;
  int n;              // a multiple of 4, at most kMaxNorm of rmsnorm.h
  float* d;           // [*, n]: the gradient of x is added
  uint16_t* rounded;  // [*, n] bf16: d once more
  float* terms;       // [rows, n]: what AddRowSums is to sum for the gradient of weight
};

// All pointers are 16-byte aligned.
void RmsNormBackward(const RmsNormBackwardArgs& args, Stream stream);

// Of SiluGate. gate_up: [rows, 2n]; d_out: [rows, n]; d_gate_up: [rows, 2n] bf16; n a multiple of 4, rows at
// most 65535, all 16-byte aligned.
void SiluGateBackward(const float* gate_up, const float* d_out, int64_t rows, int n, uint16_t* d_gate_up,
                      Stream stream);

// Of Embed: gradient[tokens[r]] += d[r] in row order. order: [rows], the rows by ascending token, those of
// one token in row order. d: [rows, n]; gradient: [vocabulary, n].
void AddEmbeddingGradient(const int32_t* tokens, const int32_t* order, const float* d, int64_t rows, int n,
                          float* gradient, Stream stream);

inline constexpr int64_t kSumRows = 64;
// Floats of `partial`.
constexpr int64_t RowSumsWorkspace(int64_t rows, int64_t n) { return (rows + kSumRows - 1) / kSumRows * n; }

// sums[i] += the sum over rows of x[r, i]. x: [rows, n]; partial: RowSumsWorkspace(rows, n) floats; rows at
// most 65535 * kSumRows. In bf16: the gradient of a bias.
void AddRowSums(const float* x, int64_t rows, int n, float* partial, float* sums, Stream stream);
void AddRowSums(const uint16_t* x, int64_t rows, int n, float* partial, float* sums, Stream stream);

}  // namespace clamor::kernels::cuda
