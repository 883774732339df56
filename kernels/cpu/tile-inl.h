// The inner loop of all products: a few rows of x against sixteen columns of w, or a few times sixteen, all
// sums in registers.

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
#include "kernels/float_formats.h"

HWY_BEFORE_NAMESPACE();
namespace clamor::kernels::HWY_NAMESPACE {

// Sums, the weights and one broadcast must fit the registers: 32 zmm; 16 ymm, two for each F16. The scalar
// target has no such limit and needs none.
#if HWY_TARGET == HWY_AVX3
inline constexpr int kTileRows = 24;      // of one panel
inline constexpr int kWideTileArea = 24;  // rows * panels of several
#elif HWY_TARGET == HWY_AVX2
inline constexpr int kTileRows = 6;
inline constexpr int kWideTileArea = 3;
#else
inline constexpr int kTileRows = 6;
inline constexpr int kWideTileArea = 1;
#endif
// One panel alone needs a load for each fma, and of few rows it waits for one fma after the other. Several
// share the broadcasts and wait together. (24 rows: 0.74 to 0.89 of the peak, eight of three panels 0.91 to
// 0.96: bench/kernel_bench.cc.)
inline constexpr int64_t kTilePanels = std::min(kWideTileArea, 3);
// How many panels a tile of so many rows takes.
inline constexpr int64_t PanelsFor(int64_t rows) {
  return std::clamp<int64_t>(kWideTileArea / rows, 1, kTilePanels);
}
// The most rows of a tile where there are many.
inline constexpr int kWideTileRows = kWideTileArea == 24 ? 8 : kTileRows;

// y[r, c] = (accumulate ? y[r, c] : 0) + sum over i of x[i][r] * w[i, c], one fma chain in i order; then the
// bias is added. The columns c are those of one to kTilePanels panels.
struct Tile {
  const float* x;            // as XLayout says
  int64_t x_chunk_step = 0;  // of XLayout::kRows: floats from one chunk of sixteen i to the next
  const void* w;  // fp32: row i at i * w_stride floats. 16 bits: lines of two rows, an odd last one alone
  int64_t w_stride = 16;   // fp32 only
  int64_t panel_step = 0;  // from one panel to the next, in units of 4 bytes
  int64_t k;
  float* y;
  size_t y_stride;
  const float* bias = nullptr;  // [columns]
  bool accumulate = false;
  // What to fetch meanwhile: of each panel this address, and for each i (16 bits: two) one `prefetch_step`
  // bytes further.
  const char* prefetch;
  int64_t prefetch_panel_step = 0;  // from one panel to the next, in bytes
  int64_t prefetch_step;
};
using TileFn = void (*)(const Tile& tile);

// Where x[i][r] lies. Known at compile time, because one address register must serve all rows.
enum class XLayout {
  kPacked,   // [k][rows]
  kRows,     // [k/16][any][16]
  kColumns,  // [k][16], rows <= 16
};
template <XLayout kLayout>
inline constexpr int kXRow = kLayout == XLayout::kRows ? 16 : 1;
template <XLayout kLayout, int kRows>
inline constexpr int kXStep = kLayout == XLayout::kPacked ? kRows
                              : kLayout == XLayout::kRows ? 1
                                                          : 16;
// Calls run(x, count) for each stretch of i over which x moves on evenly.
template <XLayout kLayout, class Fn>
HWY_INLINE void ForEachRun(const Tile& t, Fn run) {
  if constexpr (kLayout == XLayout::kRows) {
    const float* x = t.x;
    for (int64_t left = t.k; left > 0; left -= 16, x += t.x_chunk_step) run(x, std::min<int64_t>(left, 16));
  } else {
    run(t.x, t.k);
  }
}

template <int kPanels>
HWY_INLINE void PrefetchPanels(const char* soon, int64_t panel_step) {
#pragma GCC unroll 3
  for (int p = 0; p < kPanels; ++p) hwy::Prefetch(soon + p * panel_step);
}

// acc[r][p] += x of row r * w of panel p.
template <XLayout kLayout, int kRows, int kPanels>
HWY_INLINE void MultiplyAdd(const float* x, const F16 (&w)[kPanels], F16 (&acc)[kRows][kPanels]) {
#pragma GCC unroll 24
  for (int r = 0; r < kRows; ++r) {
    const F16 value = Set16(x[r * kXRow<kLayout>]);
#pragma GCC unroll 3
    for (int p = 0; p < kPanels; ++p) acc[r][p] = Fma(value, w[p], acc[r][p]);
  }
}

struct WeightsF32 {
  template <XLayout kLayout, int kRows, int kPanels>
  static HWY_INLINE void Sum(const Tile& t, F16 (&acc)[kRows][kPanels]) {
    const float* w = static_cast<const float*>(t.w);
    const char* soon = t.prefetch;
    ForEachRun<kLayout>(t, [&](const float* x, int64_t count) HWY_ATTR {
      for (int64_t i = 0; i < count;
           ++i, x += kXStep<kLayout, kRows>, w += t.w_stride, soon += t.prefetch_step) {
        PrefetchPanels<kPanels>(soon, t.prefetch_panel_step);
        F16 panels[kPanels];
#pragma GCC unroll 3
        for (int p = 0; p < kPanels; ++p) panels[p] = Load16(w + p * t.panel_step);
        MultiplyAdd<kLayout>(x, panels, acc);
      }
    });
  }
};

// Sixteen bits each, two rows of w in 64 bytes: Half::Even(line) widens the one of even i, Half::Odd the
// other.
template <class Half>
struct Weights16 : Half {
  template <XLayout kLayout, int kRows, int kPanels>
  static HWY_INLINE void Sum(const Tile& t, F16 (&acc)[kRows][kPanels]) {
    const uint32_t* pairs = static_cast<const uint32_t*>(t.w);
    const char* soon = t.prefetch;
    constexpr int kStep = kXStep<kLayout, kRows>;
    F16 panels[kPanels];
    const auto widen = [&](auto half) HWY_ATTR {
#pragma GCC unroll 3
      for (int p = 0; p < kPanels; ++p) panels[p] = half(pairs + p * t.panel_step);
    };
    ForEachRun<kLayout>(t, [&](const float* x, int64_t count) HWY_ATTR {
      for (int64_t i = 0; i + 1 < count; i += 2, x += 2 * kStep, pairs += 16, soon += t.prefetch_step) {
        PrefetchPanels<kPanels>(soon, t.prefetch_panel_step);
        widen(Half::Even);
        MultiplyAdd<kLayout>(x, panels, acc);
        widen(Half::Odd);
        MultiplyAdd<kLayout>(x + kStep, panels, acc);
      }
      if (count % 2 == 0) return;
      widen(Half::Even);  // the last of an odd k
      MultiplyAdd<kLayout>(x, panels, acc);
    });
  }
};

// Two bf16 of one column share 32 bits: the even k is the low half. Widening is a shift or a mask.
struct HalfBF16 {
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
};
using WeightsBF16 = Weights16<HalfBF16>;

// Sixteen fp16 of even k, then sixteen of odd k.
struct HalfFP16 {
  static HWY_INLINE F16 Even(const uint32_t* line) {
    const uint16_t* halves = reinterpret_cast<const uint16_t*>(line);
    F16 w;
#pragma GCC unroll 16
    for (size_t i = 0; i < kParts; ++i) {
#if HWY_TARGET == HWY_SCALAR
      w.part[i] = FloatVec(FromF16(halves[i]));
#else
      const hn::Rebind<hwy::float16_t, FloatTag> narrow;
      const auto bits = hn::LoadU(hn::RebindToUnsigned<decltype(narrow)>(), halves + i * kPartLanes);
      w.part[i] = hn::PromoteTo(FloatTag(), hn::BitCast(narrow, bits));
#endif
    }
    return w;
  }
  static HWY_INLINE F16 Odd(const uint32_t* line) { return Even(line + 8); }
};
using WeightsFP16 = Weights16<HalfFP16>;

template <class Weights, XLayout kLayout, int kPanels, int kRows>
void RunTile(const Tile& t) {
  F16 acc[kRows][kPanels];
#pragma GCC unroll 24
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 3
    for (int p = 0; p < kPanels; ++p) {
      acc[r][p] = t.accumulate ? Load16(t.y + r * t.y_stride + p * 16) : Set16(0.0f);
    }
  }
  Weights::template Sum<kLayout>(t, acc);
  if (t.bias != nullptr) {
#pragma GCC unroll 3
    for (int p = 0; p < kPanels; ++p) {
      const F16 bias = Load16(t.bias + p * 16);
#pragma GCC unroll 24
      for (int r = 0; r < kRows; ++r) acc[r][p] = acc[r][p] + bias;
    }
  }
#pragma GCC unroll 24
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 3
    for (int p = 0; p < kPanels; ++p) Store16(acc[r][p], t.y + r * t.y_stride + p * 16);
  }
}

template <class Weights, XLayout kLayout, int kPanels, size_t... kIndex>
constexpr std::array<TileFn, sizeof...(kIndex)> MakeTiles(std::index_sequence<kIndex...>) {
  return {RunTile<Weights, kLayout, kPanels, static_cast<int>(kIndex) + 1>...};
}
// kTiles<Weights, kLayout, panels>[rows - 1] runs a tile of that many rows and panels.
template <class Weights, XLayout kLayout, int kPanels = 1>
inline constexpr auto kTiles = MakeTiles<Weights, kLayout, kPanels>(
    std::make_index_sequence<kPanels == 1 ? kTileRows : kWideTileArea / kPanels>());

// The same for a number of panels known at run time, 1 to PanelsFor(rows).
template <class Weights, XLayout kLayout>
HWY_INLINE TileFn TileFor(int64_t panels, int64_t rows) {
  if constexpr (kTilePanels == 3) {
    if (panels == 3) return kTiles<Weights, kLayout, 3>[rows - 1];
    if (panels == 2) return kTiles<Weights, kLayout, 2>[rows - 1];
  }
  return kTiles<Weights, kLayout, 1>[rows - 1];
}

// How many of `left` panels the next tile should take, of at most `most`, so that none is left to stand
// alone.
HWY_INLINE int64_t NextPanels(int64_t left, int64_t most) {
  return most == 3 && left == 4 ? 2 : std::min(left, most);
}

}  // namespace clamor::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
