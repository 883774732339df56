#include "kernels/elementwise.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/cpu/ops.h"

namespace clamor::kernels {
namespace {

// Elements below which a second thread is not worth its start.
constexpr int64_t kGrain = 4096;

size_t RowGrain(int64_t row_size) { return static_cast<size_t>(std::max<int64_t>(1, kGrain / row_size)); }

}  // namespace

void RmsNorm(const float* x, int64_t rows, int64_t n, const float* weight, float eps, float* y,
             ThreadPool& pool) {
  const auto norm = kRmsNorm.Active();
  pool.ParallelFor(rows, RowGrain(n), [&](size_t begin, size_t end) {
    for (size_t r = begin; r < end; ++r) norm(x + r * n, n, weight, eps, y + r * n);
  });
}

void RmsNormHeads(float* x, int64_t rows, int64_t stride, int heads, int head_dim, const float* weight,
                  float eps, ThreadPool& pool) {
  const auto norm = kRmsNorm.Active();
  pool.ParallelFor(rows, RowGrain(int64_t{heads} * head_dim), [&](size_t begin, size_t end) {
    for (size_t r = begin; r < end; ++r) {
      for (int h = 0; h < heads; ++h) {
        float* head = x + r * stride + int64_t{h} * head_dim;
        norm(head, head_dim, weight, eps, head);
      }
    }
  });
}

void Add(const float* x, const float* y, int64_t count, float* out, ThreadPool& pool) {
  const auto add = kAdd.Active();
  pool.ParallelFor(count, kGrain,
                   [&](size_t begin, size_t end) { add(x + begin, y + begin, end - begin, out + begin); });
}

void Scale(float* x, float factor, int64_t count, ThreadPool& pool) {
  pool.ParallelFor(count, kGrain, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) x[i] *= factor;
  });
}

void SiluGate(const float* gate_up, int64_t rows, int64_t n, float* out, ThreadPool& pool) {
  const auto silu_gate = kSiluGate.Active();
  // A single long row is split too: this is the most expensive of the row-wise operators.
  constexpr int64_t kPiece = 512;
  const int64_t pieces = (n + kPiece - 1) / kPiece;
  pool.ParallelFor(rows * pieces, 2, [&](size_t begin, size_t end) {
    for (int64_t i = begin; i < static_cast<int64_t>(end); ++i) {
      const int64_t row = i / pieces;
      const int64_t column = i % pieces * kPiece;
      const float* gate = gate_up + row * 2 * n + column;
      silu_gate(gate, gate + n, std::min(kPiece, n - column), out + row * n + column);
    }
  });
}

float Exp(float x) { return kExp.Active()(x); }

// log(x) = e * ln(2) + log(1 + f) with 1 + f in [sqrt(1/2), sqrt(2)); the polynomial is that of Cephes' logf.
float Log(float x) {
  if (!(x > 0.0f))
    return x == 0.0f ? -std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
  if (std::isinf(x)) return x;
  int exponent = 0;
  if (x < std::numeric_limits<float>::min()) {  // subnormal
    x *= 8388608.0f;
    exponent = -23;
  }
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  constexpr uint32_t kSqrtHalf = 0x3f3504f3;
  const uint32_t offset = bits - kSqrtHalf;
  exponent += static_cast<int32_t>(offset) >> 23;
  const float f = std::bit_cast<float>((offset & 0x7fffff) + kSqrtHalf) - 1.0f;
  constexpr float kCoefficients[] = {-1.1514610310e-1f, 1.1676998740e-1f,  -1.2420140846e-1f,
                                     1.4249322787e-1f,  -1.6668057665e-1f, 2.0000714765e-1f,
                                     -2.4999993993e-1f, 3.3333331174e-1f};
  float p = 7.0376836292e-2f;
  for (float c : kCoefficients) p = std::fma(p, f, c);
  const float square = f * f;
  const float e = static_cast<float>(exponent);
  float y = std::fma(e, -2.12194440e-4f, p * f * square);
  y = std::fma(-0.5f, square, y);
  return std::fma(e, 0.693359375f, f + y);
}

}  // namespace clamor::kernels
