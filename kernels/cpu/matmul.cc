#include <algorithm>
#include <type_traits>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/run_inside.h"
#include "kernels/packed_rows.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/matmul.cc"
#include "hwy/foreach_target.h"
#include "kernels/cpu/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace clamor::kernels::HWY_NAMESPACE {

// Calls fn(panel, count) for the panels [begin, end) of n columns, as tiles should take them; the last panel
// stands alone if it is narrower than sixteen.
template <class Fn>
HWY_INLINE void ForEachPanels(int64_t begin, int64_t end, int64_t n, Fn fn) {
  const int64_t full = std::min(end, n / 16);
  for (int64_t panel = begin; panel < full;) {
    const int64_t count = NextPanels(full - panel);
    fn(panel, count);
    panel += count;
  }
  if (full < end) fn(full, 1);
}

// One block of K of some panels, all rows. The weights come from memory for the first row block and from a
// cache for the others.
struct PanelBlock {
  const void* weights;  // where the tiles read them
  int64_t panel_step;   // between panels there, in units of 4 bytes
  const char* stored;   // where they come from
  int64_t stored_step;  // between panels there, in bytes
  int64_t stored_size;  // of this block of one panel, in bytes
  int64_t panel, count;
  int64_t k_begin, k_end;
};

template <class Weights>
HWY_INLINE void PanelsTimesRows(const MatMulJob& job, const PanelBlock& w) {
  const int64_t blocks = job.blocks.count;
  // With one row block the panels are one stream: run ahead of it by enough to cover DRAM. Else the row
  // blocks share the fetching of the next panels.
  constexpr int64_t kStreamAhead = 8192;
  const int64_t share = w.stored_size * w.count / blocks;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t row = job.blocks.begin(b), rows = job.blocks.size(b);
    const int64_t ahead =
        blocks == 1 ? kStreamAhead
                    : (w.count + b * share / w.stored_size) * w.stored_step + b * share % w.stored_size;
    const Tile tile = {.x = job.x + w.k_begin * job.x_rows + row * 16,
                       .x_chunk_step = job.x_rows * 16,
                       .w = w.weights,
                       .panel_step = w.panel_step,
                       .k = w.k_end - w.k_begin,
                       .y = job.y + row * job.y_stride + w.panel * 16,
                       .y_stride = job.y_stride,
                       .bias = job.bias != nullptr && w.k_end == job.w.k ? job.bias + w.panel * 16 : nullptr,
                       .accumulate = w.k_begin > 0,
                       .prefetch = w.stored + ahead,
                       .prefetch_step = (64 * w.count + blocks - 1) / blocks};
    RunInside(TileFor<Weights, XLayout::kRows>(w.count, rows), tile, rows, job.w.n - w.panel * 16);
  }
}

// Several row blocks: a block of K of all their rows should stay in the second-level cache while the panels
// go by.
constexpr int64_t kDepth = 512;

// [count][kDepth][16] fp32.
template <class Weights>
void Widen(const PanelBlock& w, float* to) {
  for (int64_t p = 0; p < w.count; ++p) {
    const auto* pairs = reinterpret_cast<const uint32_t*>(w.stored + p * w.stored_step);
    float* out = to + p * kDepth * 16;
    for (int64_t k = w.k_begin; k < w.k_end; k += 2, pairs += 16, out += 32) {
      Store16(Weights::Even(pairs), out);
      Store16(Weights::Odd(pairs), out + 16);
    }
  }
}

void MatMulPanels(const MatMulJob& job, int64_t begin, int64_t end) {
  const Storage stored_as = job.w.stored;
  const int64_t k = job.w.k;
  const int64_t bytes_per_k = stored_as == Storage::kF32 ? 64 : 32;
  const int64_t panel_bytes = stored_as == Storage::kF32 ? k * 64 : (k + 1) / 2 * 64;
  const int64_t depth = job.blocks.count == 1 ? k : kDepth;
  alignas(64) static thread_local float widened[kTilePanels * kDepth * 16];
  for (int64_t k_begin = 0; k_begin < k; k_begin += depth) {
    const int64_t k_end = std::min(k, k_begin + depth);
    const auto multiply = [&](int64_t panel, int64_t count) HWY_ATTR {
      const char* stored = static_cast<const char*>(job.w.data) + panel * panel_bytes + k_begin * bytes_per_k;
      PanelBlock w = {.weights = stored,
                      .panel_step = panel_bytes / 4,
                      .stored = stored,
                      .stored_step = panel_bytes,
                      .stored_size = (k_end - k_begin) * bytes_per_k,
                      .panel = panel,
                      .count = count,
                      .k_begin = k_begin,
                      .k_end = k_end};
      const bool bf16 = stored_as == Storage::kBF16;
      if (stored_as == Storage::kF32) return PanelsTimesRows<WeightsF32>(job, w);
      if (!job.wide)
        return bf16 ? PanelsTimesRows<WeightsBF16>(job, w) : PanelsTimesRows<WeightsFP16>(job, w);
      bf16 ? Widen<WeightsBF16>(w, widened) : Widen<WeightsFP16>(w, widened);
      w.weights = widened;
      w.panel_step = kDepth * 16;
      PanelsTimesRows<WeightsF32>(job, w);
    };
    if (job.wide) {
      ForEachPanels(begin, end, job.w.n, multiply);
    } else {
      for (int64_t panel = begin; panel < end; ++panel) multiply(panel, 1);
    }
  }
}

// Rows [out, out + outputs) of dw, of at most kWideTileRows, and some panels of x, over rows [row, row +
// rows) of the batch.
HWY_INLINE void AddTile(const WeightGradientJob& job, int64_t row, int64_t rows, int64_t out, int64_t outputs,
                        int64_t panel, int64_t count) {
  const float* x = job.x + (panel * job.rows + row) * 16;
  const Tile tile = {.x = job.dy + (out / 16 * job.rows + row) * 16 + out % 16,
                     .w = x,
                     .panel_step = job.rows * 16,
                     .k = rows,
                     .y = job.dw + out * job.k + panel * 16,
                     .y_stride = static_cast<size_t>(job.k),
                     .accumulate = true,
                     .prefetch = x + count * job.rows * 16,
                     .prefetch_step = 64};
  RunInside(TileFor<WeightsF32, XLayout::kColumns>(count, outputs), tile, outputs, job.k - panel * 16);
}

// Sixteen rows of dw at a time against all panels of x: those columns of dy stay in the first-level cache,
// the panels in the second.
void WeightGradientPanels(const WeightGradientJob& job, int64_t begin, int64_t end) {
  constexpr int64_t kRows = 512, kPanels = 24;
  for (int64_t row = 0; row < job.rows; row += kRows) {
    const int64_t rows = std::min(kRows, job.rows - row);
    for (int64_t first = begin; first < end; first += kPanels) {
      const int64_t last = std::min(end, first + kPanels);
      for (int64_t out = 0; out < job.n; out += 16) {
        const RowBlocks blocks(std::min<int64_t>(16, job.n - out), kWideTileRows);
        for (int64_t b = 0; b < blocks.count; ++b) {
          ForEachPanels(first, last, job.k, [&](int64_t panel, int64_t count) HWY_ATTR {
            AddTile(job, row, rows, out + blocks.begin(b), blocks.size(b), panel, count);
          });
        }
      }
    }
  }
}

}  // namespace clamor::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace clamor::kernels {

constinit const decltype(kMaxTileRows) kMaxTileRows = {
    {N_SCALAR::kTileRows, N_AVX2::kTileRows, N_AVX3::kTileRows}};
constinit const decltype(kWideTileRows) kWideTileRows = {
    {N_SCALAR::kWideTileRows, N_AVX2::kWideTileRows, N_AVX3::kWideTileRows}};
constinit const decltype(kMatMulPanels) kMatMulPanels = {
    {N_SCALAR::MatMulPanels, N_AVX2::MatMulPanels, N_AVX3::MatMulPanels}};
constinit const decltype(kWeightGradientPanels) kWeightGradientPanels = {
    {N_SCALAR::WeightGradientPanels, N_AVX2::WeightGradientPanels, N_AVX3::WeightGradientPanels}};

}  // namespace clamor::kernels
#endif
