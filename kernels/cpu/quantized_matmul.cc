#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/quantized_tile.h"
#include "kernels/cpu/run_inside.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/quantized_matmul.cc"
#include "hwy/cache_control.h"
#include "hwy/foreach_target.h"
#include "kernels/cpu/lanes-inl.h"

#define CLAMOR_VNNI 0
#include "kernels/cpu/quantized_tile-inl.h"
#undef CLAMOR_VNNI
#if HWY_TARGET != HWY_SCALAR
#define CLAMOR_VNNI 1
#include "kernels/cpu/quantized_tile-inl.h"
#undef CLAMOR_VNNI
#endif

#if HWY_ONCE
namespace clamor::kernels {
namespace {

constexpr PerTarget<const QuantizedTiles*> kPlainTiles = {
    {&N_SCALAR::plain::kAllTiles, &N_AVX2::plain::kAllTiles, &N_AVX3::plain::kAllTiles}};
constexpr PerTarget<const QuantizedTiles*> kVnniTiles = {
    {&N_SCALAR::plain::kAllTiles, &N_AVX2::vnni::kAllTiles, &N_AVX3::vnni::kAllTiles}};

// One block of groups of some panels, all rows. The weights come from memory for the first row block and from
// a cache for the others.
struct PanelBlock {
  int64_t panel, count;
  int64_t first_group, groups;
};

void PanelsTimesRows(const QuantizedJob& job, const QuantizedTiles& tiles, const RowBlocks& blocks,
                     const PanelBlock& w) {
  const int64_t all_groups = GroupsFor(job.w.k);
  const int64_t panel_bytes = (all_groups + 1) / 2 * BytesOfPair(job.w.stored);
  const int64_t block_bytes = (w.groups + 1) / 2 * BytesOfPair(job.w.stored);
  const auto* weights = static_cast<const uint8_t*>(job.w.data) + w.panel * panel_bytes +
                        w.first_group / 2 * BytesOfPair(job.w.stored);
  // With one row block the panels are one stream: run ahead of it by enough to cover DRAM. Else the row
  // blocks share the fetching of the next panels.
  constexpr int64_t kStreamAhead = 8192;
  const int64_t share = block_bytes * w.count / blocks.count;
  for (int64_t b = 0; b < blocks.count; ++b) {
    const int64_t row = blocks.begin(b), rows = blocks.size(b);
    const int64_t ahead = blocks.count == 1
                              ? kStreamAhead
                              : (w.count + b * share / block_bytes) * panel_bytes + b * share % block_bytes;
    const bool last = w.first_group + w.groups == all_groups;
    const QuantizedTile tile = {.x = job.x + w.first_group * job.rows + row,
                                .x_step = job.rows,
                                .w = weights,
                                .panel_step = panel_bytes,
                                .groups = w.groups,
                                .y = job.y + row * job.y_stride + w.panel * 16,
                                .y_stride = job.y_stride,
                                .bias = job.bias != nullptr && last ? job.bias + w.panel * 16 : nullptr,
                                .accumulate = w.first_group > 0,
                                .prefetch = reinterpret_cast<const char*>(weights) + ahead,
                                .prefetch_step = (64 * w.count + blocks.count - 1) / blocks.count};
    RunInside(tiles.tile_for(job.w.stored, w.count, rows), tile, rows, job.w.n - w.panel * 16);
  }
}

}  // namespace

void MultiplyQuantizedPanels(const QuantizedJob& job, int64_t begin, int64_t end) {
  const QuantizedTiles& tiles = UsesVnni() ? *kVnniTiles.Active() : *kPlainTiles.Active();
  // Two row blocks still go by fast enough to take one panel at a time.
  const bool wide = job.rows > 2 * tiles.rows;
  const RowBlocks blocks(job.rows, wide ? tiles.wide_rows : tiles.rows);
  const int64_t groups = GroupsFor(job.w.k);
  // Several row blocks: a block of groups of all their rows should stay in the second-level cache while the
  // panels go by.
  constexpr int64_t kDepth = 32;
  const int64_t depth = blocks.count == 1 ? groups : kDepth;
  for (int64_t first = 0; first < groups; first += depth) {
    for (int64_t panel = begin; panel < end;) {
      // The last panel stands alone if it is narrower than sixteen.
      const int64_t full = std::min(end, job.w.n / 16) - panel;
      const int64_t count = wide && full >= tiles.panels ? tiles.panels : 1;
      PanelsTimesRows(job, tiles, blocks, {panel, count, first, std::min(depth, groups - first)});
      panel += count;
    }
  }
}

}  // namespace clamor::kernels
#endif
