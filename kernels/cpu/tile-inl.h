// The inner loop of all products: a few rows of x against sixteen columns of w, all sums in registers.

// Included once per target.
#if defined(CLAMOR_KERNELS_CPU_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CLAMOR_KERNELS_CPU_TILE_INL_H_
#undef CLAMOR_KERNELS_CPU_TILE_INL_H_
#else
#define CLAMOR_KERNELS_CPU_TILE_INL_H_
#endif

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace clamor::kernels::HWY_NAMESPACE {

// Sums, the weights and one broadcast must fit the registers: 32 zmm; 16 ymm, two for each F16. The scalar
// target has no such limit and needs none.
#if HWY_TARGET == HWY_AVX3
inline constexpr int kTileRows = 24;
#else
inline constexpr int kTileRows = 6;
#endif

// y[r, 0..16) = (accumulate ? y[r, 0..16) : 0) + sum over i of x[i][r] * w[i, 0..16), one fma chain in i
// order; then the bias is added.
struct Tile {
  const float* x;  // as XLayout says
  const void* w;   // fp32: row i at i * w_stride floats. bf16: [k/2][16][2], an odd last k alone in its pair
  int64_t w_stride;  // fp32 only
  int64_t k;
  float* y;
  size_t y_stride;
  const float* bias;  // [16] or null
  bool accumulate;
  const void* prefetch;   // what to fetch meanwhile: this address, and for each 64 bytes of weights
  int64_t prefetch_step;  // one this many bytes further
};
using TileFn = void (*)(const Tile& tile);

// Where x[i][r] lies. Known at compile time, because one address register must serve all rows.
enum class XLayout {
  kPacked,   // [k][rows]
  kRows,     // [k/16][rows][16]
  kColumns,  // [k][16], rows <= 16
};
template <XLayout kLayout>
inline constexpr int kXRow = kLayout == XLayout::kRows ? 16 : 1;
template <XLayout kLayout, int kRows>
inline constexpr int kXStep = kLayout == XLayout::kPacked ? kRows
                              : kLayout == XLayout::kRows ? 1
                                                          : 16;
// How many i follow each other at that step, and how far x moves on after them.
template <XLayout kLayout>
HWY_INLINE int64_t XRun(int64_t left) {
  return kLayout == XLayout::kRows ? std::min<int64_t>(left, 16) : left;
}
template <XLayout kLayout, int kRows>
inline constexpr int kXSkip = kLayout == XLayout::kRows ? 16 * (kRows - 1) : 0;

// acc[r] += x of row r * w.
template <XLayout kLayout, int kRows>
HWY_INLINE void MultiplyAdd(const float* x, const F16& w, F16 (&acc)[kRows]) {
#pragma GCC unroll 24
  for (int r = 0; r < kRows; ++r) acc[r] = Fma(Set16(x[r * kXRow<kLayout>]), w, acc[r]);
}

struct WeightsF32 {
  template <XLayout kLayout, int kRows>
  static HWY_INLINE void Sum(const Tile& t, F16 (&acc)[kRows]) {
    const float* w = static_cast<const float*>(t.w);
    const float* x = t.x;
    const char* soon = static_cast<const char*>(t.prefetch);
    for (int64_t left = t.k; left > 0; x += kXSkip<kLayout, kRows>) {
      const int64_t run = XRun<kLayout>(left);
      left -= run;
      for (int64_t i = 0; i < run;
           ++i, x += kXStep<kLayout, kRows>, w += t.w_stride, soon += t.prefetch_step) {
        hwy::Prefetch(soon);
        MultiplyAdd<kLayout>(x, Load16(w), acc);
      }
    }
  }
};

// Two bf16 of one column share 32 bits: the even k is the low half. Widening is a shift or a mask.
struct WeightsBF16 {
  static HWY_INLINE F16 Even(const uint32_t* pairs) {
    F16 w;
    const hn::RebindToUnsigned<FloatTag> du;
#pragma GCC unroll 16
    for (size_t i = 0; i < kParts; ++i) {
      w.part[i] = hn::BitCast(FloatTag(), hn::ShiftLeft<16>(hn::LoadU(du, pairs + i * kPartLanes)));
    }
    return w;
  }
  static HWY_INLINE F16 Odd(const uint32_t* pairs) {
    F16 w;
    const hn::RebindToUnsigned<FloatTag> du;
    const auto high = hn::Set(du, 0xffff0000u);
#pragma GCC unroll 16
    for (size_t i = 0; i < kParts; ++i) {
      w.part[i] = hn::BitCast(FloatTag(), hn::And(hn::LoadU(du, pairs + i * kPartLanes), high));
    }
    return w;
  }

  template <XLayout kLayout, int kRows>
  static HWY_INLINE void Sum(const Tile& t, F16 (&acc)[kRows]) {
    const uint32_t* pairs = static_cast<const uint32_t*>(t.w);
    const float* x = t.x;
    const char* soon = static_cast<const char*>(t.prefetch);
    constexpr int kStep = kXStep<kLayout, kRows>;
    for (int64_t left = t.k; left > 0; x += kXSkip<kLayout, kRows>) {
      const int64_t run = XRun<kLayout>(left);
      left -= run;
      for (int64_t i = 0; i + 1 < run; i += 2, x += 2 * kStep, pairs += 16, soon += t.prefetch_step) {
        hwy::Prefetch(soon);
        MultiplyAdd<kLayout>(x, Even(pairs), acc);
        MultiplyAdd<kLayout>(x + kStep, Odd(pairs), acc);
      }
      if (run % 2 != 0) MultiplyAdd<kLayout>(x, Even(pairs), acc);  // the last of an odd k
    }
  }
};

template <class Weights, XLayout kLayout, int kRows>
void RunTile(const Tile& t) {
  F16 acc[kRows];
#pragma GCC unroll 24
  for (int r = 0; r < kRows; ++r) acc[r] = t.accumulate ? Load16(t.y + r * t.y_stride) : Set16(0.0f);
  Weights::template Sum<kLayout>(t, acc);
  if (t.bias != nullptr) {
    const F16 bias = Load16(t.bias);
#pragma GCC unroll 24
    for (int r = 0; r < kRows; ++r) acc[r] = acc[r] + bias;
  }
#pragma GCC unroll 24
  for (int r = 0; r < kRows; ++r) Store16(acc[r], t.y + r * t.y_stride);
}

template <class Weights, XLayout kLayout, size_t... kIndex>
constexpr std::array<TileFn, kTileRows> MakeTiles(std::index_sequence<kIndex...>) {
  return {RunTile<Weights, kLayout, static_cast<int>(kIndex) + 1>...};
}
// kTiles<Weights, kLayout>[rows - 1] runs a tile of that many rows.
template <class Weights, XLayout kLayout>
inline constexpr std::array<TileFn, kTileRows> kTiles =
    MakeTiles<Weights, kLayout>(std::make_index_sequence<kTileRows>());

}  // namespace clamor::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
