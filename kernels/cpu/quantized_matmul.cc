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

// One block of pairs of groups of some panels, all rows. The weights come from memory for the first row block
// and from a cache for the others.
struct PanelBlock {
  int64_t panel, count;
  int64_t first_pair, pairs;
  const char* soon;  // what the row blocks fetch meanwhile: as much as they read, of as many panels
};

class Product {
 public:
  Product(const QuantizedJob& job, const QuantizedTiles& tiles) : job_(job), tiles_(tiles) {}

  // The columns of panels [begin, end).
  void Run(int64_t begin, int64_t end) const {
    // Two row blocks still go by fast enough to take one panel at a time.
    if (job_.rows <= tiles_.rows) return Stream(begin, end);
    const bool wide = job_.rows > 2 * tiles_.rows;
    const RowBlocks blocks(job_.rows, wide ? tiles_.wide_rows : tiles_.rows);
    // A block of groups of all rows should stay in the second-level cache while the panels go by.
    constexpr int64_t kDepth = 16;
    for (int64_t first = 0; first < pairs_; first += kDepth) {
      ForEachPanels(begin, end, wide, [&](int64_t panel, int64_t count) {
        Multiply(blocks, {panel, count, first, std::min(kDepth, pairs_ - first), At(panel + count, first)});
      });
    }
  }

 private:
  // Each panel is a stream from memory, fetched as far ahead as that takes; at its end, the beginnings of the
  // panels that follow.
  void Stream(int64_t begin, int64_t end) const {
    constexpr int64_t kAhead = 4096;
    const RowBlocks one(job_.rows, tiles_.rows);
    const int64_t ahead = (kAhead + pair_bytes_ - 1) / pair_bytes_;
    const int64_t turn = std::max<int64_t>(0, pairs_ - ahead);
    ForEachPanels(begin, end, job_.rows <= tiles_.wide_rows, [&](int64_t panel, int64_t count) {
      if (turn > 0) Multiply(one, {panel, count, 0, turn, At(panel, ahead)});
      Multiply(one, {panel, count, turn, pairs_ - turn, At(panel + count, 0)});
    });
  }

  // Calls fn(panel, count); the last panel stands alone if it is narrower than sixteen.
  template <class Fn>
  void ForEachPanels(int64_t begin, int64_t end, bool wide, Fn fn) const {
    for (int64_t panel = begin; panel < end;) {
      const int64_t full = std::min(end, job_.w.n / 16) - panel;
      const int64_t count = wide && full >= tiles_.panels ? tiles_.panels : 1;
      fn(panel, count);
      panel += count;
    }
  }

  const char* At(int64_t panel, int64_t pair) const {
    return static_cast<const char*>(job_.w.data) + (panel * pairs_ + pair) * pair_bytes_;
  }

  void Multiply(const RowBlocks& blocks, const PanelBlock& w) const {
    const int64_t first_group = 2 * w.first_pair;
    const int64_t groups = std::min(2 * w.pairs, GroupsFor(job_.w.k) - first_group);
    const bool last = w.first_pair + w.pairs == pairs_;
    for (int64_t b = 0; b < blocks.count; ++b) {
      const int64_t row = blocks.begin(b), rows = blocks.size(b);
      const QuantizedTile tile = {.x = job_.x + first_group * job_.rows + row,
                                  .x_step = job_.rows,
                                  .w = reinterpret_cast<const uint8_t*>(At(w.panel, w.first_pair)),
                                  .panel_step = pairs_ * pair_bytes_,
                                  .groups = groups,
                                  .y = job_.y + row * job_.y_stride + w.panel * 16,
                                  .y_stride = job_.y_stride,
                                  .bias = job_.bias != nullptr && last ? job_.bias + w.panel * 16 : nullptr,
                                  .accumulate = w.first_pair > 0,
                                  .prefetch = w.soon + b * w.pairs * pair_bytes_ / blocks.count,
                                  .prefetch_panel_step = pairs_ * pair_bytes_,
                                  .prefetch_step = (64 + blocks.count - 1) / blocks.count};
      RunInside(tiles_.tile_for(job_.w.stored, w.count, rows), tile, rows, job_.w.n - w.panel * 16);
    }
  }

  const QuantizedJob& job_;
  const QuantizedTiles& tiles_;
  const int64_t pairs_ = (GroupsFor(job_.w.k) + 1) / 2;  // of groups, in a panel
  const int64_t pair_bytes_ = static_cast<int64_t>(BytesOfPair(job_.w.stored));
};

}  // namespace

void MultiplyQuantizedPanels(const QuantizedJob& job, int64_t begin, int64_t end) {
  Product(job, UsesVnni() ? *kVnniTiles.Active() : *kPlainTiles.Active()).Run(begin, end);
}

}  // namespace clamor::kernels
#endif
