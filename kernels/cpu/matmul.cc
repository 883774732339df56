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

// Calls fn(panel, count) for the panels [begin, end) of n columns, as tiles of up to `rows` rows should take
// them; the last panel stands alone if it is narrower than sixteen.
template <class Fn>
HWY_INLINE void ForEachPanels(int64_t begin, int64_t end, int64_t n, int64_t rows, Fn fn) {
  const int64_t full = std::min(end, n / 16);
  for (int64_t panel = begin; panel < full;) {
    const int64_t count = NextPanels(full - panel, PanelsFor(rows));
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
  // What the row blocks fetch meanwhile: so many bytes from here, and from where further panels have them.
  const char* soon;
  int64_t soon_bytes;
  int64_t soon_step;
  int64_t panel, count;
  int64_t k_begin, k_end;
};

template <class Weights>
HWY_INLINE void PanelsTimesRows(const MatMulJob& job, const PanelBlock& w) {
  const int64_t blocks = job.blocks.count;
  const int64_t share = w.soon_bytes / blocks;
  const int64_t turns =
      std::is_same_v<Weights, WeightsF32> ? w.k_end - w.k_begin : (w.k_end - w.k_begin + 1) / 2;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t row = job.blocks.begin(b), rows = job.blocks.size(b);
    const Tile tile = {.x = job.x + w.k_begin * job.x_rows + row * 16,
                       .x_chunk_step = job.x_rows * 16,
                       .w = w.weights,
                       .panel_step = w.panel_step,
                       .k = w.k_end - w.k_begin,
                       .y = job.y + row * job.y_stride + w.panel * 16,
                       .y_stride = job.y_stride,
                       .bias = job.bias != nullptr && w.k_end == job.w.k ? job.bias + w.panel * 16 : nullptr,
                       .accumulate = w.k_begin > 0,
                       .prefetch = w.soon + b * share,
                       .prefetch_panel_step = w.soon_step,
                       .prefetch_step = (share + turns - 1) / turns};
    RunInside(TileFor<Weights, XLayout::kRows>(w.count, rows), tile, rows, job.w.n - w.panel * 16);
  }
}

// Several row blocks: a block of K of all their rows should stay in the second-level cache while the panels
// go by.
constexpr int64_t kDepth = 512;

// Sixteen bits widened once for all row blocks.
alignas(64) static thread_local float widened[kTilePanels * kDepth * 16];

// w as [count][kDepth][16] fp32.
template <class Weights>
PanelBlock Widen(PanelBlock w) {
  for (int64_t p = 0; p < w.count; ++p) {
    const uint32_t* pairs = static_cast<const uint32_t*>(w.weights) + p * w.panel_step;
    float* out = widened + p * kDepth * 16;
    for (int64_t k = w.k_begin; k < w.k_end; k += 2, pairs += 16, out += 32) {
      Store16(Weights::Even(pairs), out);
      Store16(Weights::Odd(pairs), out + 16);
    }
  }
  w.weights = widened;
  w.panel_step = kDepth * 16;
  return w;
}

void Multiply(const MatMulJob& job, const PanelBlock& w) {
  const bool bf16 = job.w.stored == Storage::kBF16;
  if (job.w.stored == Storage::kF32) return PanelsTimesRows<WeightsF32>(job, w);
  if (job.wide) return PanelsTimesRows<WeightsF32>(job, bf16 ? Widen<WeightsBF16>(w) : Widen<WeightsFP16>(w));
  bf16 ? PanelsTimesRows<WeightsBF16>(job, w) : PanelsTimesRows<WeightsFP16>(job, w);
}

void MatMulPanels(const MatMulJob& job, int64_t begin, int64_t end) {
  const int64_t k = job.w.k;
  const int64_t bytes_per_k = job.w.stored == Storage::kF32 ? 64 : 32;
  const int64_t panel_bytes = job.w.stored == Storage::kF32 ? k * 64 : (k + 1) / 2 * 64;
  const auto block = [&](int64_t panel, int64_t count, int64_t k_begin, int64_t k_end) {
    const char* weights = static_cast<const char*>(job.w.data) + panel * panel_bytes + k_begin * bytes_per_k;
    return PanelBlock{.weights = weights,
                      .panel_step = panel_bytes / 4,
                      .soon = weights + count * panel_bytes,  // the panels that follow
                      .soon_bytes = (k_end - k_begin) * bytes_per_k,
                      .soon_step = panel_bytes,
                      .panel = panel,
                      .count = count,
                      .k_begin = k_begin,
                      .k_end = k_end};
  };
  if (job.blocks.count > 1) {
    for (int64_t k_begin = 0; k_begin < k; k_begin += kDepth) {
      ForEachPanels(begin, end, job.w.n, job.wide ? kWideTileRows : kTileRows,
                    [&](int64_t panel, int64_t count) {
                      Multiply(job, block(panel, count, k_begin, std::min(k, k_begin + kDepth)));
                    });
    }
    return;
  }
  // One row block: each panel is a stream from memory, fetched as far ahead as that takes; at its end, the
  // beginnings of the panels that follow.
  constexpr int64_t kStreamAhead = 2048;
  const int64_t turn = std::max<int64_t>(0, k - kStreamAhead / bytes_per_k) / 16 * 16;
  ForEachPanels(begin, end, job.w.n, job.blocks.size(0), [&](int64_t panel, int64_t count) {
    PanelBlock w = block(panel, count, 0, turn);
    w.soon = static_cast<const char*>(w.weights) + kStreamAhead;
    if (turn > 0) Multiply(job, w);
    w = block(panel, count, turn, k);
    w.soon -= turn * bytes_per_k;
    Multiply(job, w);
  });
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
                     .prefetch = reinterpret_cast<const char*>(x + count * job.rows * 16),
                     .prefetch_panel_step = job.rows * 64,
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
          ForEachPanels(first, last, job.k, kWideTileRows, [&](int64_t panel, int64_t count) HWY_ATTR {
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
