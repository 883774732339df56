// The two products of attention: a few queries against pages of keys, and their weights against pages of
// values. All sums stay in registers, and what comes next is fetched meanwhile.

// Included once per target.
#if defined(CLAMOR_KERNELS_CPU_ATTENTION_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CLAMOR_KERNELS_CPU_ATTENTION_TILES_INL_H_
#undef CLAMOR_KERNELS_CPU_ATTENTION_TILES_INL_H_
#else
#define CLAMOR_KERNELS_CPU_ATTENTION_TILES_INL_H_
#endif

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "hwy/cache_control.h"
#include "kernels/cpu/kv_tiles-inl.h"
#include "kernels/cpu/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace clamor::kernels::HWY_NAMESPACE {

// Pages of keys, or sixteens of a value's elements, in one tile. Two share a broadcast, so that loads do not
// bound the loop; three would leave one of 64 columns alone.
inline constexpr int kAttentionPanels = kTilePanels > 1 ? 2 : 1;
inline constexpr int kAttentionRows = kTileRows / kAttentionPanels;

// Pages of values that are added at once; and of keys or values, those that are on their way from memory
// while one is worked on.
inline constexpr int kPagesAhead = 4;

// What to fetch meanwhile: the line at `at`, and for each step of the sums one so much further.
struct Soon {
  const char* at;
  int64_t step;
};

// scores[p][r] = query r times each of the sixteen keys of page p, one fma chain over head_dim.
struct KeyTile {
  const float* queries;  // [head_dim][rows]
  int64_t head_dim;
  std::array<KvOperand, kAttentionPanels> keys;  // [head_dim][16] each
  std::array<Soon, kAttentionPanels> soon;
  float* scores;       // [pages][any][16]
  size_t scores_step;  // from page to page
};

// sums[r] += weight * value over pages in order, and in each over keys in order, for some sixteens of
// elements.
struct ValueTile {
  const float* weights;  // [pages][any][16]
  size_t weights_step;   // from page to page
  int pages;
  int keys;                                   // of a page
  std::array<KvOperand, kPagesAhead> values;  // [keys][values_step] each
  int64_t values_step;
  int64_t element;  // of a value, the first that counts
  std::array<Soon, kPagesAhead> soon;
  int64_t soon_panel_step;  // and so much further for each sixteen elements
  float* sums;
  size_t sums_step;  // from query to query
};

template <class From, int kPages, int kRows>
void RunKeyTile(const KeyTile& t) {
  const float* q = t.queries;
  const typename From::Stored* keys[kPages];
  F16 scales[kPages];
  Soon soon[kPages];
  F16 acc[kRows][kPages];
#pragma GCC unroll 2
  for (int p = 0; p < kPages; ++p) {
    keys[p] = static_cast<const typename From::Stored*>(t.keys[p].elements);
    scales[p] = From::kScaled ? Load16(t.keys[p].scales) : Set16(1.0f);
    soon[p] = t.soon[p];
#pragma GCC unroll 24
    for (int r = 0; r < kRows; ++r) acc[r][p] = Set16(0.0f);
  }
  const int64_t head_dim = t.head_dim;
  for (int64_t d = 0; d < head_dim; ++d, q += kRows) {
    F16 panels[kPages];
#pragma GCC unroll 2
    for (int p = 0; p < kPages; ++p) {
      hwy::Prefetch(soon[p].at);
      soon[p].at += soon[p].step;
      panels[p] = From::Widen(keys[p], scales[p]);
      keys[p] += kPageSize;
    }
    MultiplyAdd<XLayout::kPacked>(q, panels, acc);
  }
  float* const scores = t.scores;
  const size_t step = t.scores_step;
#pragma GCC unroll 24
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int p = 0; p < kPages; ++p) Store16(acc[r][p], scores + p * step + r * kPageSize);
  }
}

template <class From, int kPanels, int kRows>
void RunValueTile(const ValueTile& t) {
  float* const sums = t.sums;
  const size_t step = t.sums_step;
  F16 acc[kRows][kPanels];
#pragma GCC unroll 24
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) acc[r][p] = Load16(sums + r * step + p * 16);
  }
  for (int page = 0; page < t.pages; ++page) {
    const float* weights = t.weights + page * t.weights_step;
    const auto* values = static_cast<const typename From::Stored*>(t.values[page].elements) + t.element;
    Soon soon = t.soon[page];
    for (int i = 0; i < t.keys; ++i, values += t.values_step, soon.at += soon.step) {
      const F16 scale = Set16(From::kScaled ? t.values[page].scales[i] : 1.0f);
      F16 panels[kPanels];
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) {
        hwy::Prefetch(soon.at + p * t.soon_panel_step);
        panels[p] = From::Widen(values + p * 16, scale);
      }
      MultiplyAdd<XLayout::kRows>(weights + i, panels, acc);
    }
  }
#pragma GCC unroll 24
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) Store16(acc[r][p], sums + r * step + p * 16);
  }
}

// [panels - 1][rows - 1]
template <class Tile>
using AttentionTileFns = std::array<std::array<void (*)(const Tile& tile), kAttentionRows>, 2>;

template <class From, size_t... kIndex>
constexpr AttentionTileFns<KeyTile> MakeKeyTiles(std::index_sequence<kIndex...>) {
  return {{{RunKeyTile<From, 1, kIndex + 1>...}, {RunKeyTile<From, kAttentionPanels, kIndex + 1>...}}};
}
template <class From, size_t... kIndex>
constexpr AttentionTileFns<ValueTile> MakeValueTiles(std::index_sequence<kIndex...>) {
  return {{{RunValueTile<From, 1, kIndex + 1>...}, {RunValueTile<From, kAttentionPanels, kIndex + 1>...}}};
}
using TileRowCounts = std::make_index_sequence<kAttentionRows>;
inline constexpr AttentionTileFns<KeyTile> kKeyTiles[] = {  // by KvFormat
    MakeKeyTiles<FromF32>(TileRowCounts()), MakeKeyTiles<FromBF16Bits>(TileRowCounts()),
    MakeKeyTiles<FromInt8>(TileRowCounts())};
inline constexpr AttentionTileFns<ValueTile> kValueTiles[] = {MakeValueTiles<FromF32>(TileRowCounts()),
                                                              MakeValueTiles<FromBF16Bits>(TileRowCounts()),
                                                              MakeValueTiles<FromInt8>(TileRowCounts())};

// REQUIRES: 1 <= panels <= kAttentionPanels, 1 <= rows <= kAttentionRows, keys or values as `format`.
HWY_INLINE void RunTile(KvFormat format, int panels, int64_t rows, const KeyTile& tile) {
  kKeyTiles[static_cast<int>(format)][panels - 1][rows - 1](tile);
}
HWY_INLINE void RunTile(KvFormat format, int panels, int64_t rows, const ValueTile& tile) {
  kValueTiles[static_cast<int>(format)][panels - 1][rows - 1](tile);
}

}  // namespace clamor::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
