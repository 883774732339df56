#include "kernels/adamw.h"

#include <cmath>

#include "kernels/cpu/ops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/adamw.cc"
#include "hwy/foreach_target.h"
#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace clamor::kernels::HWY_NAMESPACE {

HWY_INLINE F16 Sqrt16(const F16& a) {
  F16 v;
  for (size_t i = 0; i < kParts; ++i) v.part[i] = hn::Sqrt(a.part[i]);
  return v;
}

void AdamWRange(const AdamWStep& step, const float* gradients, float* parameters, float* first, float* second,
                int64_t n) {
  const F16 scale = Set16(step.gradient_scale);
  const F16 rest1 = Set16(1.0f - step.beta1), rest2 = Set16(1.0f - step.beta2), beta2 = Set16(step.beta2);
  const F16 keep = Set16(1.0f - step.learning_rate * step.weight_decay);
  const F16 minus_rate = Set16(-(step.learning_rate / step.correction1));
  const F16 root = Set16(step.correction2_root), epsilon = Set16(step.epsilon);
  for (int64_t i = 0; i < n; i += 16) {
    const size_t count = n - i < 16 ? n - i : 16;
    const auto load = [&](const float* p) { return count == 16 ? Load16(p + i) : LoadFirst(p + i, count); };
    const auto store = [&](const F16& v, float* p) {
      if (count == 16) {
        Store16(v, p + i);
      } else {
        StoreFirst(v, p + i, count);
      }
    };
    const F16 g = load(gradients) * scale;
    const F16 m = Fma(rest1, g - load(first), load(first));
    const F16 v = Fma(rest2 * g, g, beta2 * load(second));
    store(m, first);
    store(v, second);
    store(Fma(minus_rate, m / (Sqrt16(v) / root + epsilon), load(parameters) * keep), parameters);
  }
}

float SumOfSquaresRange(const float* x, int64_t n) {
  F16 sums = Set16(0.0f);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const F16 v = Load16(x + i);
    sums = Fma(v, v, sums);
  }
  if (i < n) {
    const F16 v = LoadFirst(x + i, n - i);
    sums = Fma(v, v, sums);
  }
  return FoldSum(sums);
}

}  // namespace clamor::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace clamor::kernels {

constinit const decltype(kAdamW) kAdamW = {{N_SCALAR::AdamWRange, N_AVX2::AdamWRange, N_AVX3::AdamWRange}};
constinit const decltype(kSumOfSquares) kSumOfSquares = {
    {N_SCALAR::SumOfSquaresRange, N_AVX2::SumOfSquaresRange, N_AVX3::SumOfSquaresRange}};

}  // namespace clamor::kernels
#endif
