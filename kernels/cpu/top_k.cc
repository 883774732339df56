#include <cmath>
#include <limits>

#include "kernels/cpu/ops.h"
#include "kernels/elementwise.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/top_k.cc"
#include "hwy/foreach_target.h"
#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace clamor::kernels::HWY_NAMESPACE {

// The best so far, in order. Ids arrive ascending, so an equal value never displaces or overtakes.
struct Best {
  int32_t* ids;
  float* values;
  int k;
  int count = 0;

  void Offer(int32_t id, float value) {
    if (count == k && !(value > values[k - 1])) return;
    if (std::isnan(value)) return;
    int at = count < k ? count++ : k - 1;
    for (; at > 0 && value > values[at - 1]; --at) {
      values[at] = values[at - 1];
      ids[at] = ids[at - 1];
    }
    values[at] = value;
    ids[at] = id;
  }
};

// maximum + log(sum of exp(x - maximum)).
float LogSumExp(const float* logits, int64_t n, float maximum) {
  if (!std::isfinite(maximum)) return maximum;
  const F16 max16 = Set16(maximum);
  const int64_t whole = n & ~int64_t{15};
  F16 sums = Set16(0.0f);
  for (int64_t i = 0; i < whole; i += 16) sums = sums + Exp16(Load16(logits + i) - max16);
  if (whole != n) {
    float last[16];
    for (float& value : last) value = -std::numeric_limits<float>::infinity();
    for (int64_t i = whole; i < n; ++i) last[i - whole] = logits[i];
    sums = sums + Exp16(Load16(last) - max16);
  }
  return maximum + Log(FoldSum(sums));
}

void TopKRow(const float* logits, int64_t n, int k, int32_t* ids, float* values, float* log_sum_exp) {
  Best best = {ids, values, k};
  int64_t i = 0;
  while (i < n && best.count < k) {
    best.Offer(static_cast<int32_t>(i), logits[i]);
    ++i;
  }
  // Once k are held, almost no group of 64 has a better one: one comparison each and no branch taken.
  constexpr int64_t kGroup = 64;
  for (; i + kGroup <= n; i += kGroup) {
    const F16 bar = Set16(values[k - 1]);
    const float* p = logits + i;
    F16 best_here = bar;
    for (int64_t j = 0; j < kGroup; j += 16) best_here = MaxOf(best_here, Load16(p + j));
    if (!AnyGreater(best_here, bar)) continue;
    for (int64_t j = 0; j < kGroup; j += 16) {
      if (!AnyGreater(Load16(p + j), Set16(values[k - 1]))) continue;
      for (int64_t lane = j; lane < j + 16; ++lane) best.Offer(static_cast<int32_t>(i + lane), p[lane]);
    }
  }
  for (; i < n; ++i) best.Offer(static_cast<int32_t>(i), logits[i]);
  for (int j = best.count; j < k; ++j) {
    ids[j] = -1;
    values[j] = -std::numeric_limits<float>::infinity();
  }
  if (log_sum_exp != nullptr) *log_sum_exp = LogSumExp(logits, n, values[0]);
}

}  // namespace clamor::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace clamor::kernels {

constinit const decltype(kTopK) kTopK = {{N_SCALAR::TopKRow, N_AVX2::TopKRow, N_AVX3::TopKRow}};

}  // namespace clamor::kernels
#endif
