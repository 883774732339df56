#include <cmath>

#include "kernels/cpu/ops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise_backward.cc"
#include "hwy/foreach_target.h"
#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace clamor::kernels::HWY_NAMESPACE {

// Calls fn(load, store) for each sixteen elements of [0, n): load(p) and store(v, p) reach those of the array
// p, the last time what is left of it, where load fills up with zeros.
template <typename Fn>
HWY_INLINE void ForEach16(int64_t n, Fn fn) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    fn([i](const float* p) { return Load16(p + i); }, [i](const F16& v, float* p) { Store16(v, p + i); });
  }
  if (const size_t rest = n - i; rest != 0) {
    fn([i, rest](const float* p) { return LoadFirst(p + i, rest); },
       [i, rest](const F16& v, float* p) { StoreFirst(v, p + i, rest); });
  }
}

float NormScale(const float* x, int64_t n, float eps) {
  F16 squares = Set16(0.0f);
  ForEach16(n, [&](auto load, auto) {
    const F16 v = load(x);
    squares = Fma(v, v, squares);
  });
  return 1.0f / std::sqrt(FoldSum(squares) / static_cast<float>(n) + eps);
}

void AddNormWeightGradient(const float* x, float scale, const float* dy, int64_t n, float* dweight) {
  const F16 s = Set16(scale);
  ForEach16(n, [&](auto load, auto store) { store(Fma(load(dy), load(x) * s, load(dweight)), dweight); });
}

void RmsNormBackwardRow(const float* x, float scale, int64_t n, const float* weight, float* dy) {
  F16 products = Set16(0.0f);
  ForEach16(n, [&](auto load, auto) { products = Fma(load(x), load(weight) * load(dy), products); });
  const F16 minus_c = Set16(-(FoldSum(products) * (scale * scale * scale) / static_cast<float>(n)));
  const F16 s = Set16(scale);
  ForEach16(n,
            [&](auto load, auto store) { store(Fma(minus_c, load(x), s * (load(weight) * load(dy))), dy); });
}

void SiluGateBackwardRow(float* gate, float* up, const float* d_out, int64_t n) {
  const F16 one = Set16(1.0f), zero = Set16(0.0f);
  ForEach16(n, [&](auto load, auto store) {
    const F16 g = load(gate), u = load(up), d = load(d_out);
    const F16 denominator = one + Exp16(zero - g);
    const F16 q = one / denominator;
    store(d * (g / denominator), up);
    store(d * u * (q * Fma(g, one - q, one)), gate);
  });
}

}  // namespace clamor::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace clamor::kernels {

constinit const decltype(kNormScale) kNormScale = {
    {N_SCALAR::NormScale, N_AVX2::NormScale, N_AVX3::NormScale}};
constinit const decltype(kAddNormWeightGradient) kAddNormWeightGradient = {
    {N_SCALAR::AddNormWeightGradient, N_AVX2::AddNormWeightGradient, N_AVX3::AddNormWeightGradient}};
constinit const decltype(kRmsNormBackward) kRmsNormBackward = {
    {N_SCALAR::RmsNormBackwardRow, N_AVX2::RmsNormBackwardRow, N_AVX3::RmsNormBackwardRow}};
constinit const decltype(kSiluGateBackward) kSiluGateBackward = {
    {N_SCALAR::SiluGateBackwardRow, N_AVX2::SiluGateBackwardRow, N_AVX3::SiluGateBackwardRow}};

}  // namespace clamor::kernels
#endif
