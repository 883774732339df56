// F16: sixteen floats that advance together, on every target: one zmm, two ymm, or sixteen scalars. A panel
// of weights, a page of keys and the partial sums of a reduction are all sixteen wide, so kernels written
// with F16 do the same operations in the same order whatever the vector width.
//
// Highway's scalar MulAdd rounds twice; Fma below never does.

// Included once per target.
#if defined(CLAMOR_KERNELS_CPU_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CLAMOR_KERNELS_CPU_LANES_INL_H_
#undef CLAMOR_KERNELS_CPU_LANES_INL_H_
#else
#define CLAMOR_KERNELS_CPU_LANES_INL_H_
#endif

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace clamor::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::CappedTag<float, 16>;
using FloatVec = hn::Vec<FloatTag>;
inline constexpr size_t kPartLanes = hn::MaxLanes(FloatTag());
inline constexpr size_t kParts = 16 / kPartLanes;

template <class V>
HWY_INLINE V Fma(V a, V b, V c) {
#if HWY_TARGET == HWY_SCALAR
  return V(std::fma(a.raw, b.raw, c.raw));
#else
  return hn::MulAdd(a, b, c);
#endif
}

// a where it is greater or less, else b, be it because one is NaN: what x86's instructions do.
template <class V>
HWY_INLINE V Greater(V a, V b) {
#if HWY_TARGET == HWY_SCALAR
  return V(a.raw > b.raw ? a.raw : b.raw);
#else
  return hn::Max(a, b);
#endif
}
template <class V>
HWY_INLINE V Less(V a, V b) {
#if HWY_TARGET == HWY_SCALAR
  return V(a.raw < b.raw ? a.raw : b.raw);
#else
  return hn::Min(a, b);
#endif
}

struct F16 {
  FloatVec part[kParts];
};

// The loops below have at most 16 steps and vanish.
#define CLAMOR_EACH_PART _Pragma("GCC unroll 16") for (size_t i = 0; i < kParts; ++i)

HWY_INLINE F16 Set16(float value) {
  F16 v;
  CLAMOR_EACH_PART v.part[i] = hn::Set(FloatTag(), value);
  return v;
}

HWY_INLINE F16 Load16(const float* p) {
  F16 v;
  CLAMOR_EACH_PART v.part[i] = hn::LoadU(FloatTag(), p + i * kPartLanes);
  return v;
}

HWY_INLINE void Store16(const F16& v, float* p) {
  CLAMOR_EACH_PART hn::StoreU(v.part[i], FloatTag(), p + i * kPartLanes);
}

// The first `count` < 16 floats at p, then zeros.
HWY_INLINE F16 LoadFirst(const float* p, size_t count) {
  float buffer[16] = {};
  for (size_t i = 0; i < count; ++i) buffer[i] = p[i];
  return Load16(buffer);
}

HWY_INLINE void StoreFirst(const F16& v, float* p, size_t count) {
  float buffer[16];
  Store16(v, buffer);
  for (size_t i = 0; i < count; ++i) p[i] = buffer[i];
}

HWY_INLINE F16 Fma(const F16& a, const F16& b, const F16& c) {
  F16 v;
  CLAMOR_EACH_PART v.part[i] = Fma(a.part[i], b.part[i], c.part[i]);
  return v;
}

HWY_INLINE F16 operator+(const F16& a, const F16& b) {
  F16 v;
  CLAMOR_EACH_PART v.part[i] = hn::Add(a.part[i], b.part[i]);
  return v;
}

HWY_INLINE F16 operator-(const F16& a, const F16& b) {
  F16 v;
  CLAMOR_EACH_PART v.part[i] = hn::Sub(a.part[i], b.part[i]);
  return v;
}

HWY_INLINE F16 operator*(const F16& a, const F16& b) {
  F16 v;
  CLAMOR_EACH_PART v.part[i] = hn::Mul(a.part[i], b.part[i]);
  return v;
}

HWY_INLINE F16 operator/(const F16& a, const F16& b) {
  F16 v;
  CLAMOR_EACH_PART v.part[i] = hn::Div(a.part[i], b.part[i]);
  return v;
}

// b where it is greater, else a: a NaN in b never wins.
HWY_INLINE F16 MaxOf(const F16& a, const F16& b) {
  F16 v;
  CLAMOR_EACH_PART v.part[i] = Greater(b.part[i], a.part[i]);
  return v;
}

// Whether any lane of a is greater than its lane of b; false for NaN.
HWY_INLINE bool AnyGreater(const F16& a, const F16& b) {
  bool any = false;
  CLAMOR_EACH_PART any |= !hn::AllFalse(FloatTag(), hn::Gt(a.part[i], b.part[i]));
  return any;
}

// The one order in which sixteen partial sums become one: i with i + 8, then + 4, + 2, + 1.
HWY_INLINE float FoldSum(const F16& v) {
  float sums[16];
  Store16(v, sums);
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  return sums[0];
}

HWY_INLINE float FoldMax(const F16& v) {
  float lanes[16];
  Store16(v, lanes);
  float best = lanes[0];
  for (float lane : lanes) best = lane > best ? lane : best;
  return best;
}

// exp(x) = 2^n * exp(r) with |r| <= ln(2) / 2; the polynomial is that of Cephes' expf. 2^n is applied in two
// halves, so that results below the normal range round once and those above become infinite.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exp(D d, V x) {
  const hn::RebindToSigned<D> di;
  // NaN stays; e^-105 rounds to 0 and e^89 to infinity.
  x = Less(hn::Set(d, 89.0f), Greater(hn::Set(d, -105.0f), x));
  // Adding 1.5 * 2^23 rounds to an integer, which then sits in the low bits.
  const V magic = hn::Set(d, 12582912.0f);
  const V shifted = Fma(x, hn::Set(d, 1.44269504f), magic);
  const V n = hn::Sub(shifted, magic);
  const V minus_n = hn::Sub(hn::Zero(d), n);
  V r = Fma(minus_n, hn::Set(d, 0.693359375f), x);
  r = Fma(minus_n, hn::Set(d, -2.12194440e-4f), r);
  V p = hn::Set(d, 1.9875691500e-4f);
  p = Fma(p, r, hn::Set(d, 1.3981999507e-3f));
  p = Fma(p, r, hn::Set(d, 8.3334519073e-3f));
  p = Fma(p, r, hn::Set(d, 4.1665795894e-2f));
  p = Fma(p, r, hn::Set(d, 1.6666665459e-1f));
  p = Fma(p, r, hn::Set(d, 5.0000001201e-1f));
  p = hn::Add(Fma(p, hn::Mul(r, r), r), hn::Set(d, 1.0f));
  const auto exponent = hn::Sub(hn::BitCast(di, shifted), hn::BitCast(di, magic));
  const auto first = hn::ShiftRight<1>(exponent);
  const auto second = hn::Sub(exponent, first);
  const auto bias = hn::Set(di, 127);
  p = hn::Mul(p, hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(first, bias))));
  return hn::Mul(p, hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(second, bias))));
}

HWY_INLINE F16 Exp16(const F16& x) {
  F16 v;
  CLAMOR_EACH_PART v.part[i] = Exp(FloatTag(), x.part[i]);
  return v;
}

}  // namespace clamor::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#undef CLAMOR_EACH_PART
#endif
