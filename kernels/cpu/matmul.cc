#include <algorithm>
#include <cstring>

#include "kernels/cpu/ops.h"
#include "kernels/pack_sixteens.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/matmul.cc"
#include "hwy/foreach_target.h"
#include "kernels/cpu/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace clamor::kernels::HWY_NAMESPACE {

// One panel, one block of K, all rows. The weights come from memory for the first row block and from the
// first-level cache for the others.
void PanelTimesRows(const MatMulJob& job, int64_t panel, int64_t k_begin, int64_t k_end) {
  const bool bf16 = job.w.stored == DType::kBF16;
  const int64_t k = job.w.k;
  const int64_t bytes_per_k = bf16 ? 32 : 64;
  const int64_t panel_bytes = (bf16 ? (k + 1) / 2 * 2 : k) * bytes_per_k;
  const int64_t columns = std::min<int64_t>(16, job.w.n - panel * 16);
  const auto& tiles = job.x_by_columns ? kTiles<WeightsF32, XLayout::kPacked>
                      : bf16           ? kTiles<WeightsBF16, XLayout::kRows>
                                       : kTiles<WeightsF32, XLayout::kRows>;
  const int64_t x_depth = job.x_by_columns ? k : SixteensFor(k) * 16;
  const char* weights = static_cast<const char*>(job.w.data) + panel * panel_bytes + k_begin * bytes_per_k;
  // With one row block the panels are one stream: run ahead of it by enough to cover DRAM. Else the row
  // blocks share the fetching of the next panel.
  constexpr int64_t kStreamAhead = 8192;
  const int64_t ahead = job.blocks.count == 1 ? kStreamAhead : panel_bytes;
  const int64_t share = (k_end - k_begin) * bytes_per_k / job.blocks.count;

  float last_bias[16] = {};
  const float* bias = nullptr;
  if (job.bias != nullptr && k_end == k) {
    bias = job.bias + panel * 16;
    if (columns < 16) {
      std::memcpy(last_bias, bias, columns * sizeof(float));
      bias = last_bias;
    }
  }
  for (int64_t b = 0; b < job.blocks.count; ++b) {
    const int64_t rows = job.blocks.size(b);
    float* y = job.y + job.blocks.begin(b) * job.y_stride + panel * 16;
    Tile tile = {.x = job.x + job.blocks.begin(b) * x_depth + k_begin * rows,
                 .w = weights,
                 .w_stride = 16,
                 .k = k_end - k_begin,
                 .y = y,
                 .y_stride = job.y_stride,
                 .bias = bias,
                 .accumulate = job.accumulate || k_begin > 0,
                 .prefetch = weights + ahead + b * share,
                 .prefetch_step = (64 + job.blocks.count - 1) / job.blocks.count};
    if (columns == 16) {
      tiles[rows - 1](tile);
      continue;
    }
    float padded[kTileRows * 16] = {};  // the last panel is wider than y
    for (int64_t r = 0; tile.accumulate && r < rows; ++r) {
      std::memcpy(padded + r * 16, y + r * job.y_stride, columns * sizeof(float));
    }
    tile.y = padded;
    tile.y_stride = 16;
    tiles[rows - 1](tile);
    for (int64_t r = 0; r < rows; ++r)
      std::memcpy(y + r * job.y_stride, padded + r * 16, columns * sizeof(float));
  }
}

void MatMulPanels(const MatMulJob& job, int64_t begin, int64_t end) {
  // Several row blocks: a block of K of all their rows should stay in the second-level cache while the panels
  // go by.
  constexpr int64_t kBlock = 512;
  const int64_t k = job.w.k;
  const int64_t step = job.blocks.count == 1 ? k : kBlock;
  for (int64_t k_begin = 0; k_begin < k; k_begin += step) {
    for (int64_t panel = begin; panel < end; ++panel) {
      PanelTimesRows(job, panel, k_begin, std::min(k, k_begin + step));
    }
  }
}

}  // namespace clamor::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace clamor::kernels {

constinit const decltype(kMaxTileRows) kMaxTileRows = {
    {N_SCALAR::kTileRows, N_AVX2::kTileRows, N_AVX3::kTileRows}};
constinit const decltype(kMatMulPanels) kMatMulPanels = {
    {N_SCALAR::MatMulPanels, N_AVX2::MatMulPanels, N_AVX3::MatMulPanels}};

}  // namespace clamor::kernels
#endif
