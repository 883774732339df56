#include <cmath>

#include "kernels/cpu/ops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rope.cc"
#include "hwy/foreach_target.h"
#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace clamor::kernels::HWY_NAMESPACE {

// Cosine and sine of x by reduction to r = x - n * pi/2, |r| <= pi/4, and the kernel polynomials of fdlibm.
// pi/2 is held in two doubles; the first fma is exact (its result is a multiple of 2^-52 below 1), the second
// one errs by less than 2^-54, so the whole is within 3e-16 of the true value for |x| up to 1e6 and far
// beyond.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void CosSin(D d, V x, V& cos, V& sin) {
  const hn::RebindToUnsigned<D> du;
  // Adding 1.5 * 2^52 rounds to an integer, which then sits in the low bits.
  const V magic = hn::Set(d, 6755399441055744.0);
  const V shifted = Fma(x, hn::Set(d, 0.63661977236758134308), magic);
  const V minus_n = hn::Sub(magic, shifted);
  V r = Fma(minus_n, hn::Set(d, 1.5707963267948965580), x);
  r = Fma(minus_n, hn::Set(d, 6.1232339957367660359e-17), r);
  const V z = hn::Mul(r, r);

  V s = hn::Set(d, 1.58969099521155010221e-10);
  s = Fma(s, z, hn::Set(d, -2.50507602534068634195e-8));
  s = Fma(s, z, hn::Set(d, 2.75573137070700676789e-6));
  s = Fma(s, z, hn::Set(d, -1.98412698298579493134e-4));
  s = Fma(s, z, hn::Set(d, 8.33333333332248946124e-3));
  s = Fma(s, z, hn::Set(d, -1.66666666666666324348e-1));
  s = Fma(s, hn::Mul(z, r), r);

  V c = hn::Set(d, -1.13596475577881948265e-11);
  c = Fma(c, z, hn::Set(d, 2.08757232129817482790e-9));
  c = Fma(c, z, hn::Set(d, -2.75573143513906633035e-7));
  c = Fma(c, z, hn::Set(d, 2.48015872894767294178e-5));
  c = Fma(c, z, hn::Set(d, -1.38888888888741095749e-3));
  c = Fma(c, z, hn::Set(d, 4.16666666666666019037e-2));
  c = Fma(c, hn::Mul(z, z), Fma(z, hn::Set(d, -0.5), hn::Set(d, 1.0)));

  // Quadrant n mod 4: (cos, sin) is (c, s), (-s, c), (-c, -s), (s, -c).
  const auto n = hn::BitCast(du, shifted);
  const auto one = hn::Set(du, uint64_t{1});
  const auto two = hn::Set(du, uint64_t{2});
  const auto odd = hn::RebindMask(d, hn::Eq(hn::And(n, one), one));
  const V cos_sign = hn::BitCast(d, hn::ShiftLeft<62>(hn::And(hn::Add(n, one), two)));
  const V sin_sign = hn::BitCast(d, hn::ShiftLeft<62>(hn::And(n, two)));
  cos = hn::Xor(hn::IfThenElse(odd, s, c), cos_sign);
  sin = hn::Xor(hn::IfThenElse(odd, c, s), sin_sign);
}

template <class D>
HWY_INLINE void CosSinAt(D d, double position, const double* frequencies, float* cos, float* sin) {
  const hn::Rebind<float, D> df;
  hn::Vec<D> c, s;
  CosSin(d, hn::Mul(hn::Set(d, position), hn::LoadU(d, frequencies)), c, s);
  hn::StoreU(hn::DemoteTo(df, c), df, cos);
  hn::StoreU(hn::DemoteTo(df, s), df, sin);
}

void CosSinRow(double position, const double* frequencies, int half, float* cos, float* sin) {
  const hn::CappedTag<double, 8> d;
  const hn::CappedTag<double, 1> d1;
  const int lanes = static_cast<int>(hn::Lanes(d));
  int i = 0;
  for (; i + lanes <= half; i += lanes) CosSinAt(d, position, frequencies + i, cos + i, sin + i);
  for (; i < half; ++i) CosSinAt(d1, position, frequencies + i, cos + i, sin + i);
}

HWY_INLINE F16 Negated(const F16& v) { return v * Set16(-1.0f); }

void RotateHead(float* x, const float* cos, const float* sin, float direction, int half) {
  const F16 sign = Set16(direction);
  int i = 0;
  for (; i + 16 <= half; i += 16) {
    const F16 a = Load16(x + i), b = Load16(x + half + i);
    const F16 c = Load16(cos + i), s = Load16(sin + i) * sign;
    Store16(Fma(a, c, Negated(b * s)), x + i);
    Store16(Fma(b, c, a * s), x + half + i);
  }
  if (const size_t rest = half - i; rest != 0) {
    const F16 a = LoadFirst(x + i, rest), b = LoadFirst(x + half + i, rest);
    const F16 c = LoadFirst(cos + i, rest), s = LoadFirst(sin + i, rest) * sign;
    StoreFirst(Fma(a, c, Negated(b * s)), x + i, rest);
    StoreFirst(Fma(b, c, a * s), x + half + i, rest);
  }
}

}  // namespace clamor::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace clamor::kernels {

constinit const decltype(kCosSin) kCosSin = {{N_SCALAR::CosSinRow, N_AVX2::CosSinRow, N_AVX3::CosSinRow}};
constinit const decltype(kRotate) kRotate = {{N_SCALAR::RotateHead, N_AVX2::RotateHead, N_AVX3::RotateHead}};

}  // namespace clamor::kernels
#endif
