#include <cmath>

#include "kernels/cpu/ops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise.cc"
#include "hwy/foreach_target.h"
#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace clamor::kernels::HWY_NAMESPACE {

void RmsNormRow(const float* x, int64_t n, const float* weight, float eps, float* y) {
  const int64_t whole = n & ~int64_t{15};
  const size_t rest = n - whole;
  F16 squares = Set16(0.0f);
  for (int64_t i = 0; i < whole; i += 16) {
    const F16 v = Load16(x + i);
    squares = Fma(v, v, squares);
  }
  if (rest != 0) {
    const F16 v = LoadFirst(x + whole, rest);
    squares = Fma(v, v, squares);
  }
  const F16 scale = Set16(1.0f / std::sqrt(FoldSum(squares) / static_cast<float>(n) + eps));
  for (int64_t i = 0; i < whole; i += 16) Store16(Load16(x + i) * scale * Load16(weight + i), y + i);
  if (rest != 0)
    StoreFirst(LoadFirst(x + whole, rest) * scale * LoadFirst(weight + whole, rest), y + whole, rest);
}

void AddRange(const float* x, const float* y, int64_t n, float* out) {
  const int64_t whole = n & ~int64_t{15};
  for (int64_t i = 0; i < whole; i += 16) Store16(Load16(x + i) + Load16(y + i), out + i);
  for (int64_t i = whole; i < n; ++i) out[i] = x[i] + y[i];
}

HWY_INLINE F16 Silu(const F16& v) { return v / (Set16(1.0f) + Exp16(Set16(0.0f) - v)); }

void SiluGateRange(const float* gate, const float* up, int64_t n, float* out) {
  const int64_t whole = n & ~int64_t{15};
  const size_t rest = n - whole;
  for (int64_t i = 0; i < whole; i += 16) Store16(Silu(Load16(gate + i)) * Load16(up + i), out + i);
  if (rest != 0)
    StoreFirst(Silu(LoadFirst(gate + whole, rest)) * LoadFirst(up + whole, rest), out + whole, rest);
}

float ExpOne(float x) {
  const hn::CappedTag<float, 1> d;
  return hn::GetLane(Exp(d, hn::Set(d, x)));
}

}  // namespace clamor::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace clamor::kernels {

constinit const decltype(kRmsNorm) kRmsNorm = {
    {N_SCALAR::RmsNormRow, N_AVX2::RmsNormRow, N_AVX3::RmsNormRow}};
constinit const decltype(kAdd) kAdd = {{N_SCALAR::AddRange, N_AVX2::AddRange, N_AVX3::AddRange}};
constinit const decltype(kSiluGate) kSiluGate = {
    {N_SCALAR::SiluGateRange, N_AVX2::SiluGateRange, N_AVX3::SiluGateRange}};
constinit const decltype(kExp) kExp = {{N_SCALAR::ExpOne, N_AVX2::ExpOne, N_AVX3::ExpOne}};

}  // namespace clamor::kernels
#endif
