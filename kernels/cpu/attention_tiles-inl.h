// The two products of attention over pages: a few queries against pages of keys, and their weights against
// pages of values. All sums stay in registers, and what comes next is fetched meanwhile.

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

#include "kernels/cpu/tile-inl.h"
#include "kernels/tree_attention.h"

HWY_BEFORE_NAMESPACE();
namespace clamor::kernels::HWY_NAMESPACE {

// Pages of keys, or sixteens of a value's elements, in one tile. Two share a broadcast, so that loads do not
// bound the loop; three would leave one of 64 columns alone.
inline constexpr int kAttentionPanels = kTilePanels > 1 ? 2 : 1;
inline constexpr int kAttentionRows = kTileRows / kAttentionPanels;

// Pages of values that are added at once, and how many pages of keys or values are on their way from memory
// while one is worked on.
inline constexpr int kPagesAhead = 4;

// Where to fetch from meanwhile: the line at `at`, and for each step one that much further.
struct Soon {
  const char* at;
  int64_t step;
};

// scores[p][r] = one fma chain over head_dim of query r times each of the sixteen keys of page p.
struct KeyTile {
  const float* queries;  // [head_dim][rows]
  int64_t head_dim;
  std::array<const float*, kAttentionPanels> keys;  // each [head_dim][16]
  std::array<Soon, kAttentionPanels> soon;
  float* scores;       // [pages][any][16]
  size_t scores_step;  // from page to page
};

template <int kPages, int kRows>
void RunKeyTile(const KeyTile& t) {
  F16 acc[kRows][kPages];
#pragma GCC unroll 24
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int p = 0; p < kPages; ++p) acc[r][p] = Set16(0.0f);
  }
  const float* q = t.queries;
  std::array<const float*, kAttentionPanels> keys = t.keys;
  std::array<Soon, kAttentionPanels> soon = t.soon;
  const int64_t head_dim = t.head_dim;
  for (int64_t d = 0; d < head_dim; ++d, q += kRows) {
    F16 panels[kPages];
#pragma GCC unroll 2
    for (int p = 0; p < kPages; ++p) {
      hwy::Prefetch(soon[p].at);
      soon[p].at += soon[p].step;
      panels[p] = Load16(keys[p]);
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

// sums[r] += over `pages` pages in order, and in each over `keys` keys in order, weight * value, for the
// elements of some sixteens.
struct ValueTile {
  const float* weights;  // [pages][any][16]
  size_t weights_step;   // from page to page
  int pages;
  int keys;                                      // of a page
  std::array<const float*, kPagesAhead> values;  // from the first element to be added
  size_t values_step;                            // from key to key
  std::array<Soon, kPagesAhead> soon;            // a step for each key
  int64_t soon_panel_step;                       // and for each sixteen elements
  float* sums;
  size_t sums_step;  // from query to query
};

template <int kPanels, int kRows>
void RunValueTile(const ValueTile& t) {
  F16 acc[kRows][kPanels];
#pragma GCC unroll 24
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) acc[r][p] = Load16(t.sums + r * t.sums_step + p * 16);
  }
  for (int page = 0; page < t.pages; ++page) {
    const float* weights = t.weights + page * t.weights_step;
    const float* values = t.values[page];
    Soon soon = t.soon[page];
    for (int i = 0; i < t.keys; ++i, values += t.values_step, soon.at += soon.step) {
      F16 panels[kPanels];
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) {
        hwy::Prefetch(soon.at + p * t.soon_panel_step);
        panels[p] = Load16(values + p * 16);
      }
      MultiplyAdd<XLayout::kRows>(weights + i, panels, acc);
    }
  }
  float* const sums = t.sums;
  const size_t step = t.sums_step;
#pragma GCC unroll 24
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) Store16(acc[r][p], sums + r * step + p * 16);
  }
}

using KeyTileFn = void (*)(const KeyTile& tile);
using ValueTileFn = void (*)(const ValueTile& tile);
template <int kPanels, size_t... kIndex>
constexpr std::array<KeyTileFn, sizeof...(kIndex)> MakeKeyTiles(std::index_sequence<kIndex...>) {
  return {RunKeyTile<kPanels, static_cast<int>(kIndex) + 1>...};
}
template <int kPanels, size_t... kIndex>
constexpr std::array<ValueTileFn, sizeof...(kIndex)> MakeValueTiles(std::index_sequence<kIndex...>) {
  return {RunValueTile<kPanels, static_cast<int>(kIndex) + 1>...};
}
// [panels - 1][rows - 1]
inline constexpr std::array<std::array<KeyTileFn, kAttentionRows>, 2> kKeyTiles = {
    MakeKeyTiles<1>(std::make_index_sequence<kAttentionRows>()),
    MakeKeyTiles<kAttentionPanels>(std::make_index_sequence<kAttentionRows>())};
inline constexpr std::array<std::array<ValueTileFn, kAttentionRows>, 2> kValueTiles = {
    MakeValueTiles<1>(std::make_index_sequence<kAttentionRows>()),
    MakeValueTiles<kAttentionPanels>(std::make_index_sequence<kAttentionRows>())};

}  // namespace clamor::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
