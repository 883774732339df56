#include "model/cuda/step_layout.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>

#include "kernels/cuda/matmul.h"

namespace clamor {
namespace {

using kernels::cuda::AttentionRow;
using kernels::cuda::AttentionTile;
using kernels::cuda::Draw;
using kernels::cuda::kMaxNodes;
using kernels::cuda::kPageTokens;

void Require(bool condition, const char* what, int64_t row) {
  if (condition) return;
  std::fprintf(stderr, "a batch for the device: row %lld: %s\n", static_cast<long long>(row), what);
  std::abort();
}

int64_t PagesOf(int32_t tokens) { return (int64_t{tokens} + kPageTokens - 1) / kPageTokens; }

// Calls f(first, end) for the rows of each sequence: those that share their pages.
template <class F>
void ForEachSequence(const Batch& batch, F f) {
  const auto& rows = batch.attention;
  for (size_t first = 0, end = 0; first < rows.size(); first = end) {
    while (end < rows.size() && rows[end].pages == rows[first].pages) ++end;
    f(static_cast<int64_t>(first), static_cast<int64_t>(end));
  }
}

int64_t PagesSeen(const Batch& batch, int64_t first, int64_t end) {
  int64_t pages = 0;
  for (int64_t r = first; r < end; ++r) pages = std::max(pages, PagesOf(batch.attention[r].prefix));
  return pages;
}

}  // namespace

int64_t RoundedRows(int64_t rows) {
  if (rows > kernels::cuda::kRowBlock) return kernels::cuda::PaddedRows(rows);
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(rows)));
}

int32_t RoundedPages(int64_t pages) {
  const auto least = static_cast<uint64_t>(kernels::cuda::kSplit / kPageTokens);
  return static_cast<int32_t>(std::bit_ceil(std::max(static_cast<uint64_t>(pages), least)));
}

StepPlaces::StepPlaces(const StepShape& shape) {
  size_t end = 0;
  const auto place = [&end](size_t& at, int64_t count, size_t size) {
    at = end;
    end += (count * size + 15) / 16 * 16;
  };
  place(attention, shape.rows, sizeof(AttentionRow));
  place(tiles, shape.rows, sizeof(AttentionTile));
  place(tokens, shape.rows, sizeof(int32_t));
  place(positions, shape.rows, sizeof(int32_t));
  place(slots, shape.rows, sizeof(int32_t));
  place(which, shape.wanted, sizeof(int32_t));
  place(draws, shape.draws ? shape.wanted : 0, sizeof(Draw));
  place(page_table, int64_t{shape.sequences} * shape.pages_per_sequence, sizeof(int32_t));
  bytes = end;
}

StepWriter::StepWriter(int64_t slots, int group, int32_t max_sequences)
    : slots_(slots), group_(group), max_sequences_(max_sequences), row_of_(slots) {}

StepShape StepWriter::ShapeOf(const Batch& batch) const {
  int64_t pages = 0;
  ForEachSequence(batch,
                  [&](int64_t first, int64_t end) { pages = std::max(pages, PagesSeen(batch, first, end)); });
  const int64_t rows = RoundedRows(batch.rows()), wanted = static_cast<int64_t>(batch.logit_rows.size());
  return {.rows = rows,
          .wanted = wanted == 0 ? 0 : RoundedRows(wanted),
          .sequences = static_cast<int32_t>(std::min<int64_t>(rows, max_sequences_)),
          .pages_per_sequence = RoundedPages(pages),
          .draws = std::ranges::any_of(batch.draws, [](const RowDraw& d) { return d.temperature > 0; })};
}

AttentionRow StepWriter::RowOf(const Batch& batch, int64_t row, int32_t sequence) const {
  const kernels::AttentionRow& from = batch.attention[row];
  AttentionRow to = {.ancestors = 0,
                     .tree = static_cast<int32_t>(row),
                     .prefix = from.prefix,
                     .position = batch.positions[row],
                     .sequence = sequence};
  Require(from.prefix + from.extra_count == to.position + 1, "sees other than all before it", row);
  int32_t last = -1;
  for (int32_t i = 0; i < from.extra_count; ++i) {
    const int32_t slot = from.extra[i], ancestor = row_of_[slot];
    Require(ancestor <= row && batch.slots[ancestor] == slot, "sees a slot that is no row before it", row);
    if (i == 0) to.tree = ancestor;
    Require(ancestor > last && ancestor - to.tree < kMaxNodes, "sees rows too far apart, or not in order",
            row);
    to.ancestors |= uint64_t{1} << (ancestor - to.tree);
    last = ancestor;
  }
  return to;
}

void StepWriter::Write(const Batch& batch, const StepShape& shape, std::byte* to) {
  const StepPlaces places(shape);
  AttentionRow* const attention = reinterpret_cast<AttentionRow*>(to + places.attention);
  AttentionTile* tile = reinterpret_cast<AttentionTile*>(to + places.tiles);
  const auto ints = [to](size_t at) { return reinterpret_cast<int32_t*>(to + at); };
  const int64_t rows = batch.rows();

  std::copy(batch.tokens.begin(), batch.tokens.end(), ints(places.tokens));
  std::copy(batch.positions.begin(), batch.positions.end(), ints(places.positions));
  std::copy(batch.slots.begin(), batch.slots.end(), ints(places.slots));
  std::copy(batch.logit_rows.begin(), batch.logit_rows.end(), ints(places.which));
  std::fill_n(ints(places.which) + batch.logit_rows.size(), shape.wanted - batch.logit_rows.size(), 0);
  if (shape.draws) {
    Draw* const draws = reinterpret_cast<Draw*>(to + places.draws);
    std::fill_n(draws, shape.wanted, Draw{});
    std::ranges::transform(batch.draws, draws, [](const RowDraw& d) {
      return Draw{.seed = d.seed, .position = d.position, .temperature = d.temperature};
    });
  }

  for (int64_t r = 0; r < rows; ++r) row_of_[batch.slots[r]] = static_cast<int32_t>(r);
  int32_t sequence = 0;
  int32_t* pages = ints(places.page_table);
  AttentionTile* const tiles_end = tile + shape.rows;
  const int64_t rows_per_tile = kernels::cuda::kQueriesPerTile / group_;
  ForEachSequence(batch, [&](int64_t first, int64_t end) {
    Require(sequence < shape.sequences, "is of one sequence too many", first);
    for (int64_t r = first; r < end; ++r) attention[r] = RowOf(batch, r, sequence);
    for (int64_t r = first; r < end; r += rows_per_tile) {
      *tile++ = {.first = static_cast<int32_t>(r),
                 .rows = static_cast<int32_t>(std::min(rows_per_tile, end - r))};
    }
    std::copy_n(batch.attention[first].pages, PagesSeen(batch, first, end), pages);
    pages += shape.pages_per_sequence;
    ++sequence;
  });
  std::fill(tile, tiles_end, AttentionTile{.first = 0, .rows = 0});

  for (int64_t r = rows; r < shape.rows; ++r) {
    const int32_t row = static_cast<int32_t>(r);
    ints(places.tokens)[r] = 0;
    ints(places.positions)[r] = 0;
    ints(places.slots)[r] = static_cast<int32_t>(slots_) + row;
    attention[r] = {.ancestors = 1, .tree = row, .prefix = 0, .position = 0, .sequence = 0};
  }
}

}  // namespace clamor
