#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "kernels/cpu/ops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/quantize.cc"
#include "hwy/foreach_target.h"
#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace clamor::kernels::HWY_NAMESPACE {

using IntTag = hn::RebindToSigned<FloatTag>;
using IntVec = hn::Vec<IntTag>;
using BitsTag = hn::RebindToUnsigned<FloatTag>;
using BitsVec = hn::Vec<BitsTag>;

HWY_INLINE FloatVec SetF(float value) { return hn::Set(FloatTag(), value); }

// To the nearest integer, ties to even; |x| < 2^22. Adding 1.5 * 2^23 rounds, and leaves it in the low bits.
HWY_INLINE IntVec Nearest(FloatVec x) {
  const FloatVec magic = SetF(12582912.0f);
  return hn::Sub(hn::BitCast(IntTag(), hn::Add(x, magic)), hn::BitCast(IntTag(), magic));
}

// x >= 0.
HWY_INLINE FloatVec UpToBF16(FloatVec x) {
  const BitsVec bits = hn::Add(hn::BitCast(BitsTag(), x), hn::Set(BitsTag(), 0xffff));
  return hn::BitCast(FloatTag(), hn::And(bits, hn::Set(BitsTag(), 0xffff0000)));
}

// To the nearest, ties to even.
HWY_INLINE FloatVec NearestBF16(FloatVec x) {
  const BitsVec bits = hn::BitCast(BitsTag(), x);
  const BitsVec odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(BitsTag(), 1));
  const BitsVec rounded = hn::Add(bits, hn::Add(odd, hn::Set(BitsTag(), 0x7fff)));
  return hn::BitCast(FloatTag(), hn::And(rounded, hn::Set(BitsTag(), 0xffff0000)));
}

// 1 / scale, or 0 for a group that counts as zeros.
HWY_INLINE FloatVec InverseOf(FloatVec scale, FloatVec largest) {
  return hn::IfThenZeroElse(hn::Lt(largest, SetF(kLeastMagnitude)), hn::Div(SetF(1.0f), scale));
}

// As many columns of a group as a vector has lanes.
struct Columns {
  FloatVec operator[](int64_t k) const { return hn::LoadU(FloatTag(), values + k * 16); }
  const float* values;
};

struct Extreme {
  FloatVec value;      // the first of largest magnitude
  FloatVec magnitude;  // its
};
HWY_INLINE Extreme ExtremeOf(Columns w) {
  Extreme e = {SetF(0.0f), SetF(0.0f)};
  for (int64_t k = 0; k < kGroup; ++k) {
    const FloatVec magnitude = hn::Abs(w[k]);
    const auto larger = hn::Gt(magnitude, e.magnitude);
    e.value = hn::IfThenElse(larger, w[k], e.value);
    e.magnitude = hn::IfThenElse(larger, magnitude, e.magnitude);
  }
  return e;
}

// The index of the value of int4 that is nearest to x, and that value.
struct Int4 {
  IntVec index;
  FloatVec value;
};
HWY_INLINE Int4 NearestInt4(FloatVec x) {
  Int4 nearest = {hn::Zero(IntTag()), SetF(kInt4Values[0])};
#pragma GCC unroll 15
  for (int i = 1; i < 16; ++i) {
    const auto above = hn::Gt(x, SetF(0.5f * static_cast<float>(kInt4Values[i - 1] + kInt4Values[i])));
    nearest.value = hn::IfThenElse(above, SetF(kInt4Values[i]), nearest.value);
    nearest.index = hn::Sub(nearest.index, hn::VecFromMask(IntTag(), hn::RebindMask(IntTag(), above)));
  }
  return nearest;
}

HWY_INLINE FloatVec BestInt4Scale(Columns w, const Extreme& e) {
  constexpr float kFirst = 22, kLast = 36;  // where e may come to lie
  FloatVec best = SetF(0.0f), least_error = SetF(std::numeric_limits<float>::infinity());
  for (float reach = kFirst; reach <= kLast; ++reach) {
    const FloatVec scale = NearestBF16(hn::Div(e.value, SetF(-reach)));
    const FloatVec inverse = InverseOf(scale, e.magnitude);
    FloatVec error = SetF(0.0f);
    for (int64_t k = 0; k < kGroup; ++k) {
      const FloatVec q = NearestInt4(hn::Mul(w[k], inverse)).value;
      const FloatVec miss = hn::Sub(w[k], hn::Mul(q, scale));
      error = Fma(miss, miss, error);
    }
    const auto better = hn::Lt(error, least_error);
    best = reach == kFirst ? scale : hn::IfThenElse(better, scale, best);  // errors may all be infinite
    least_error = hn::IfThenElse(better, error, least_error);
  }
  return best;
}

// Four columns' worth of bytes: those of k, k + 1, k + 2, k + 3 from the low end up.
HWY_INLINE BitsVec FourBytes(BitsVec a, BitsVec b, BitsVec c, BitsVec d) {
  const BitsVec low = hn::Or(a, hn::ShiftLeft<8>(b)), high = hn::Or(c, hn::ShiftLeft<8>(d));
  return hn::Or(low, hn::ShiftLeft<16>(high));
}

// The scale of each column, `q(k)` and what the lines hold, for the columns from `column` on.
void QuantizeColumns(Columns w, Storage stored, int64_t column, ColumnGroup& out) {
  const Extreme e = ExtremeOf(w);
  const bool int8 = stored == Storage::kI8;
  FloatVec scale = int8 ? UpToBF16(hn::Div(e.magnitude, SetF(127.0f))) : BestInt4Scale(w, e);
  scale = hn::IfThenZeroElse(hn::Lt(e.magnitude, SetF(kLeastMagnitude)), scale);
  const FloatVec inverse = InverseOf(scale, e.magnitude);
  alignas(64) uint32_t scales[kPartLanes];
  hn::Store(hn::ShiftRight<16>(hn::BitCast(BitsTag(), scale)), BitsTag(), scales);
  for (size_t i = 0; i < kPartLanes; ++i) out.scales[column + i] = static_cast<uint16_t>(scales[i]);

  const auto byte = [&](int64_t k) HWY_ATTR {  // of int4, half of one
    const FloatVec x = hn::Mul(w[k], inverse);
    if (!int8) return hn::BitCast(BitsTag(), NearestInt4(x).index);
    return hn::BitCast(BitsTag(), hn::Add(Nearest(x), hn::Set(IntTag(), ZeroPoint(stored))));
  };
  uint8_t* line = out.lines + column * 4;
  for (int64_t k = 0; k < kGroup; line += 64, k += int8 ? 4 : 8) {
    BitsVec bytes = FourBytes(byte(k), byte(k + 1), byte(k + 2), byte(k + 3));
    if (!int8) {
      const BitsVec high = FourBytes(byte(k + 4), byte(k + 5), byte(k + 6), byte(k + 7));
      bytes = hn::Or(bytes, hn::ShiftLeft<4>(high));
    }
    hn::StoreU(bytes, BitsTag(), reinterpret_cast<uint32_t*>(line));
  }
}

void QuantizeWeights(const float* values, Storage stored, ColumnGroup& out) {
  for (size_t column = 0; column < 16; column += kPartLanes) {
    QuantizeColumns({values + column}, stored, column, out);
  }
}

HWY_INLINE void QuantizeGroup(const float* x, int zero_point, RowGroup& out) {
  // Among bit patterns without sign, infinity is above all numbers and NaN above infinity.
  IntVec largest = hn::Zero(IntTag());
  for (int64_t i = 0; i < kGroup; i += kPartLanes) {
    const IntVec bits = hn::BitCast(IntTag(), hn::Abs(hn::LoadU(FloatTag(), x + i)));
    largest = hn::Max(largest, bits);
  }
  const float magnitude = std::bit_cast<float>(hn::GetLane(hn::MaxOfLanes(IntTag(), largest)));
  if (!(magnitude >= kLeastMagnitude && magnitude <= std::numeric_limits<float>::max())) {
    const bool zeros = magnitude < kLeastMagnitude;
    out = {.q = {}, .scale = zeros ? 0.0f : std::numeric_limits<float>::quiet_NaN(), .correction = 0};
    return;
  }
  const FloatVec inverse = SetF(127.0f / magnitude);
  IntVec sum = hn::Zero(IntTag());
  for (int64_t i = 0; i < kGroup; i += kPartLanes) {
    const IntVec q = Nearest(hn::Mul(hn::LoadU(FloatTag(), x + i), inverse));
    sum = hn::Add(sum, q);
    const hn::Rebind<int8_t, IntTag> bytes;
    hn::StoreU(hn::DemoteTo(bytes, q), bytes, out.q + i);
  }
  out.scale = magnitude / 127.0f;
  out.correction = -zero_point * hn::GetLane(hn::SumOfLanes(IntTag(), sum));
}

HWY_INLINE void QuantizeGroupOf(const QuantizeJob& job, int64_t row, int64_t group) {
  const float* x = job.x + row * job.x_stride + group * kGroup;
  RowGroup& out = job.out[group * job.rows + row];
  const int64_t count = std::min(kGroup, job.k - group * kGroup);
  if (count == kGroup) return QuantizeGroup(x, job.zero_point, out);
  float padded[kGroup] = {};
  std::memcpy(padded, x, count * sizeof(float));
  QuantizeGroup(padded, job.zero_point, out);
}

void QuantizeRows(const QuantizeJob& job, int64_t begin, int64_t end) {
  constexpr int64_t kTogether = 8;  // groups of one row, one after the other as they lie in memory
  for (int64_t first = begin; first < end; first += kTogether) {
    for (int64_t r = 0; r < job.rows; ++r) {
      for (int64_t group = first; group < std::min(end, first + kTogether); ++group)
        QuantizeGroupOf(job, r, group);
    }
  }
}

}  // namespace clamor::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace clamor::kernels {

constinit const decltype(kQuantizeWeights) kQuantizeWeights = {
    {N_SCALAR::QuantizeWeights, N_AVX2::QuantizeWeights, N_AVX3::QuantizeWeights}};
constinit const decltype(kQuantizeRows) kQuantizeRows = {
    {N_SCALAR::QuantizeRows, N_AVX2::QuantizeRows, N_AVX3::QuantizeRows}};

}  // namespace clamor::kernels
#endif
