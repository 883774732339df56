#include <limits>

#include "kernels/cpu/ops.h"
#include "kernels/elementwise.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/cross_entropy.cc"
#include "hwy/foreach_target.h"
#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace clamor::kernels::HWY_NAMESPACE {

// The first `count` < 16 floats at p, then minus infinity, whose exponential is 0.
HWY_INLINE F16 LoadFirstElseNever(const float* p, size_t count) {
  float buffer[16];
  for (size_t i = 0; i < 16; ++i) buffer[i] = i < count ? p[i] : -std::numeric_limits<float>::infinity();
  return Load16(buffer);
}

// x = scale * softmax(x); returns the log of the sum of exponentials.
float SoftmaxRow(float* x, int64_t n, float scale) {
  const int64_t whole = n & ~int64_t{15};
  const size_t rest = n - whole;
  F16 best = Set16(-std::numeric_limits<float>::infinity());
  for (int64_t i = 0; i < whole; i += 16) best = MaxOf(best, Load16(x + i));
  if (rest != 0) best = MaxOf(best, LoadFirstElseNever(x + whole, rest));
  const float maximum = FoldMax(best);
  const F16 max16 = Set16(maximum);
  F16 sums = Set16(0.0f);
  for (int64_t i = 0; i < whole; i += 16) {
    const F16 weights = Exp16(Load16(x + i) - max16);
    sums = sums + weights;
    Store16(weights, x + i);
  }
  if (rest != 0) {
    const F16 weights = Exp16(LoadFirstElseNever(x + whole, rest) - max16);
    sums = sums + weights;
    StoreFirst(weights, x + whole, rest);
  }
  const float total = FoldSum(sums);
  const F16 factor = Set16(scale / total);
  for (int64_t i = 0; i < whole; i += 16) Store16(Load16(x + i) * factor, x + i);
  if (rest != 0) StoreFirst(LoadFirst(x + whole, rest) * factor, x + whole, rest);
  return maximum + Log(total);
}

}  // namespace clamor::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace clamor::kernels {

constinit const decltype(kSoftmax) kSoftmax = {
    {N_SCALAR::SoftmaxRow, N_AVX2::SoftmaxRow, N_AVX3::SoftmaxRow}};

}  // namespace clamor::kernels
#endif
