// Attention as two products (attention_tiles-inl.h): a page of keys is a panel of sixteen columns and head_dim
// steps; a page of values is sixteen steps of head_dim columns. Between them lie the scores, later the
// weights, of each sixteen logical positions as one [queries][16] tile: what the first product writes and the
// second one reads. So the softmax neither knows nor cares where the keys were.
//
// Positions go by blocks of sixteen. A block whose visible keys all lie in one page is used in place; one
// that holds extra slots is first gathered into a tile that looks like a page.
//
// What bounds one row is memory: while one page is worked on, others are on their way. What bounds many rows
// is arithmetic: they read a page together, and it is widened for them once.

#include <algorithm>
#include <limits>
#include <utility>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/scratch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/tree_attention.cc"
#include "hwy/foreach_target.h"
#include "kernels/cpu/attention_tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace clamor::kernels::HWY_NAMESPACE {

inline constexpr float kNever = -std::numeric_limits<float>::infinity();

HWY_INLINE int BlockOf(int position) { return position / kPageSize; }
HWY_INLINE int BlocksFor(int positions) { return (positions + kPageSize - 1) / kPageSize; }

// The positions of a chunk that a row sees: [begin, end), none if begin >= end.
HWY_INLINE AttentionJob::Positions SeesOfChunk(const AttentionJob& job, int row, int chunk) {
  const auto [begin, end] = job.Sees(row);
  return {std::max(begin, chunk * kKeyChunk), std::min(end, (chunk + 1) * kKeyChunk)};
}

// One task over one chunk. Queries are numbered row by row: query = row * heads + head, both relative to the
// task.
class ChunkAttention {
 public:
  ChunkAttention(const AttentionJob& job, const AttentionTask& task, int chunk, float* parts)
      : job_(job),
        task_(task),
        chunk_(chunk),
        rows_(task.row_count),
        heads_(job.heads_per_key),
        queries_(rows_ * heads_),
        head_dim_(job.layer.head_dim),
        padded_dim_(BlocksFor(head_dim_) * 16),
        query_blocks_(queries_, kAttentionRows),
        kv_(job.layer.format, head_dim_, query_blocks_.count > 1),
        parts_(parts),
        part_size_(AttentionPartSize(head_dim_)),
        soon_step_(KvTileBytes(job.layer.format, head_dim_) / padded_dim_) {
    for (int r = 0; r < rows_; ++r) {
      const Visible v = Sees(r);
      shared_begin_ = std::max(shared_begin_, BlocksFor(v.begin));
      shared_end_ = std::min(shared_end_, std::min(BlockOf(v.end), v.paged_end));
      if (v.begin >= v.end) continue;
      seen_ = true;
      paged_begin_ = std::min(paged_begin_, BlockOf(v.begin));
      paged_end_ = std::max(paged_end_, v.paged_end);
    }
    if (shared_begin_ >= shared_end_) shared_begin_ = shared_end_ = 0;
  }

  void Run() {
    if (!seen_) return;
    GetMemory();
    PackQueries();
    ScorePages();
    for (int r = 0; r < rows_; ++r) {
      ScoreExtras(r);
      Softmax(r);
    }
    // In key order for each row: what not all see of the front, what all see, the rest.
    for (int query = 0; query < queries_; ++query) std::fill_n(Part(query), padded_dim_, 0.0f);
    for (int r = 0; r < rows_; ++r) AddOwnValues(r, 0, shared_begin_);
    AddSharedValues();
    for (int r = 0; r < rows_; ++r) AddOwnValues(r, shared_end_, std::numeric_limits<int>::max());
  }

 private:
  // Blocks below paged_end are used in place.
  struct Visible {
    int begin, end, paged_end;
  };

  const AttentionRow& Row(int r) const { return job_.rows[task_.row + r]; }

  Visible Sees(int r) const {
    const AttentionRow& row = Row(r);
    const auto [begin, end] = SeesOfChunk(job_, task_.row + r, chunk_);
    const int paged_end = row.extra_count > 0 ? BlockOf(row.prefix) : BlocksFor(row.prefix);
    return {.begin = begin, .end = end, .paged_end = std::min(paged_end, BlocksFor(end))};
  }

  int32_t SlotOf(const AttentionRow& row, int position) const {
    if (position >= row.prefix) return row.extra[position - row.prefix];
    return row.pages[BlockOf(position)] * kPageSize + position % kPageSize;
  }
  const std::byte* Keys(int32_t page) const { return job_.layer.KeyTile(page, task_.kv_head); }
  const std::byte* Values(int32_t page) const { return job_.layer.ValueTile(page, task_.kv_head); }

  // Of a query: [padded_dim] sums of weight * value, [16] sums of weights, the maximum.
  float* Part(int query) const { return parts_ + query * part_size_; }
  // [queries][16], of the queries from row r on.
  float* Tile16(int block, int r) const {
    const int b = block - chunk_ * (kKeyChunk / kPageSize);
    return tiles_ + (size_t{1} * b * queries_ + r * heads_) * kPageSize;
  }

  void GetMemory() {
    thread_local Scratch scratch;
    const size_t tiles_size = size_t{kKeyChunk} * queries_;
    const size_t q_size = size_t{1} * queries_ * head_dim_;
    const size_t key_size = size_t{kAttentionPanels} * head_dim_ * kPageSize;
    const size_t value_size = size_t{1} * kPagesAhead * kPageSize * padded_dim_;
    float* p = scratch.Get(tiles_size + key_size + value_size + q_size + heads_ * head_dim_);
    tiles_ = std::exchange(p, p + tiles_size);
    key_tile_ = std::exchange(p, p + key_size);
    value_tile_ = std::exchange(p, p + value_size);
    all_q_ = std::exchange(p, p + q_size);
    row_q_ = p;
  }

  const float* Query(int query) const {
    return job_.q + (task_.row + query / heads_) * job_.q_stride +
           (size_t{1} * task_.kv_head * heads_ + query % heads_) * head_dim_;
  }
  void Pack(int first, int queries, float* packed) const {
    for (int i = 0; i < queries; ++i) {
      const float* q = Query(first + i);
      for (int d = 0; d < head_dim_; ++d) packed[d * queries + i] = q[d];
    }
  }
  void PackQueries() const {
    for (int64_t i = 0; i < query_blocks_.count; ++i) {
      Pack(query_blocks_.begin(i), query_blocks_.size(i), all_q_ + query_blocks_.begin(i) * head_dim_);
    }
  }

  // The pages used in place, first their keys, then their values: as they are read. A step for each of
  // head_dim elements passes the whole tile.
  Soon Coming(int i) const {
    const int pages = paged_end_ - paged_begin_;
    i = std::min(i, 2 * pages - 1);
    const int32_t page = Row(0).pages[paged_begin_ + i % pages];
    const std::byte* tile = i < pages ? Keys(page) : Values(page);
    return {reinterpret_cast<const char*>(tile), soon_step_};
  }
  // Nothing: what is at hand.
  static Soon Here(const float* p) { return {reinterpret_cast<const char*>(p), 0}; }

  // Every block that any row uses in place, for all rows: what a row does not see of them is overwritten or
  // ignored.
  void ScorePages() const {
    const int32_t* pages = Row(0).pages;
    for (int b = paged_begin_, count; b < paged_end_; b += count) {
      count = std::min(kAttentionPanels, paged_end_ - b);
      KeyTile tile = {.head_dim = head_dim_, .scores_step = size_t{1} * queries_ * kPageSize};
      for (int p = 0; p < count; ++p) {
        tile.keys[p] = kv_.Keys(Keys(pages[b + p]), key_tile_ + p * head_dim_ * kPageSize);
        tile.soon[p] = Coming(b + p + kPagesAhead - paged_begin_);
      }
      for (int64_t i = 0; i < query_blocks_.count; ++i) {
        const int64_t first = query_blocks_.begin(i);
        tile.queries = all_q_ + first * head_dim_;
        tile.scores = Tile16(b, 0) + first * kPageSize;
        RunTile(kv_.keys_as(), count, query_blocks_.size(i), tile);
        tile.soon.fill(Here(all_q_));  // once is enough
      }
    }
  }

  void ScoreExtras(int r) const {
    const AttentionRow& row = Row(r);
    const Visible v = Sees(r);
    const int begin = std::max(v.paged_end, BlockOf(v.begin)), end = BlocksFor(v.end);
    const RowBlocks blocks(heads_, kAttentionRows);
    for (int64_t i = 0; begin < end && i < blocks.count; ++i) {
      Pack(r * heads_ + blocks.begin(i), blocks.size(i), row_q_ + blocks.begin(i) * head_dim_);
    }
    for (int b = begin; b < end; ++b) {
      const int last = std::min((b + 1) * kPageSize, v.end);
      for (int p = std::max(b * kPageSize, v.begin); p < last; ++p) {
        const int32_t slot = SlotOf(row, p);
        kv_.CopyKey(Keys(slot / kPageSize), slot % kPageSize, key_tile_ + p % kPageSize);
      }
      for (int64_t i = 0; i < blocks.count; ++i) {
        const int64_t first = blocks.begin(i);
        RunTile(KvFormat::kF32, 1, blocks.size(i),
                KeyTile{.queries = row_q_ + first * head_dim_,
                        .head_dim = head_dim_,
                        .keys = {KvOperand{key_tile_}},
                        .soon = {Here(key_tile_)},
                        .scores = Tile16(b, r) + first * kPageSize});
      }
    }
  }

  // Turns the scores of one row into weights; keeps their maxima and sums.
  void Softmax(int r) const {
    const Visible v = Sees(r);
    if (v.begin >= v.end) return;
    const int begin = BlockOf(v.begin), end = BlocksFor(v.end);
    // What is not seen gets weight 0, which changes neither maximum nor sum, and never meets a value.
    for (int h = 0; h < heads_; ++h) {
      std::fill_n(Tile16(begin, r) + h * kPageSize, v.begin % kPageSize, kNever);
      float* last = Tile16(end - 1, r) + h * kPageSize;
      std::fill(last + (v.end - 1) % kPageSize + 1, last + kPageSize, kNever);
    }
    const F16 scale = Set16(job_.scale);
    float* const sums = Part(r * heads_) + padded_dim_;
    float* const maxima = sums + 16;
    for (int h = 0; h < heads_; ++h) {
      Store16(Set16(kNever), maxima + h * part_size_);
      Store16(Set16(0.0f), sums + h * part_size_);
    }
    // The heads of a block are independent, so no result is waited for.
    for (int b = begin; b < end; ++b) {
      const float* scores = Tile16(b, r);
      for (int h = 0; h < heads_; ++h) {
        float* best = maxima + h * part_size_;
        Store16(MaxOf(Load16(best), Load16(scores + h * kPageSize) * scale), best);
      }
    }
    for (int h = 0; h < heads_; ++h) {
      float* best = maxima + h * part_size_;
      Store16(Set16(FoldMax(Load16(best))), best);
    }
    for (int b = begin; b < end; ++b) {
      float* scores = Tile16(b, r);
      for (int h = 0; h < heads_; ++h) {
        const F16 weights = Exp16(Load16(scores + h * kPageSize) * scale - Load16(maxima + h * part_size_));
        Store16(Load16(sums + h * part_size_) + weights, sums + h * part_size_);
        Store16(weights, scores + h * kPageSize);
      }
    }
  }

  // Adds weights * values of a few pages, given as `format`, to the sums of some queries, for all elements.
  void AddValues(KvFormat format, ValueTile tile, int first_query, int queries) const {
    const RowBlocks blocks(queries, kAttentionRows);
    const float* weights = tile.weights;
    for (int panels; tile.element < padded_dim_; tile.element += panels * 16) {
      panels = std::min(kAttentionPanels, static_cast<int>(padded_dim_ - tile.element) / 16);
      for (int64_t i = 0; i < blocks.count; ++i) {
        const int64_t first = blocks.begin(i);
        tile.weights = weights + first * kPageSize;
        tile.sums = Part(first_query + first) + tile.element;
        RunTile(format, panels, blocks.size(i), tile);
      }
      for (Soon& soon : tile.soon) soon.at += panels * tile.soon_panel_step;
    }
  }

  void AddSharedValues() const {
    const int32_t* pages = Row(0).pages;
    for (int b = shared_begin_, count; b < shared_end_; b += count) {
      count = std::min(kPagesAhead, shared_end_ - b);
      ValueTile tile = {.weights = Tile16(b, 0),
                        .weights_step = size_t{1} * queries_ * kPageSize,
                        .pages = count,
                        .keys = kPageSize,
                        .values_step = padded_dim_,
                        .soon_panel_step = soon_step_,
                        .sums_step = part_size_};
      for (int i = 0; i < count; ++i) {
        tile.values[i] = kv_.Values(Values(pages[b + i]), value_tile_ + i * kPageSize * padded_dim_);
        tile.soon[i] = Coming(paged_end_ - 2 * paged_begin_ + b + i + kPagesAhead);
        tile.soon[i].step *= padded_dim_ / 16;
      }
      AddValues(kv_.values_as(), tile, 0, queries_);
    }
  }

  // Of the blocks in [first_block, last_block) that row r sees.
  void AddOwnValues(int r, int first_block, int last_block) const {
    const AttentionRow& row = Row(r);
    const Visible v = Sees(r);
    const int end_block = std::min(last_block, BlocksFor(v.end));
    for (int b = std::max(first_block, BlockOf(v.begin)); b < end_block; ++b) {
      const int begin = std::max(b * kPageSize, v.begin), end = std::min((b + 1) * kPageSize, v.end);
      const float* values = value_tile_;
      if (b < v.paged_end) {
        values = kv_.FloatValues(Values(row.pages[b]), begin % kPageSize, end - begin, value_tile_);
      } else {
        for (int p = begin; p < end; ++p) {
          const int32_t slot = SlotOf(row, p);
          float* to = value_tile_ + (p - begin) * padded_dim_;
          const float* value = kv_.FloatValues(Values(slot / kPageSize), slot % kPageSize, 1, to);
          if (value != to) std::copy_n(value, head_dim_, to);
        }
      }
      AddValues(KvFormat::kF32,
                {.weights = Tile16(b, r) + begin % kPageSize,
                 .pages = 1,
                 .keys = end - begin,
                 .values = {KvOperand{values}},
                 .values_step = padded_dim_,
                 .soon = {Here(values)},
                 .sums_step = part_size_},
                r * heads_, heads_);
    }
  }

  const AttentionJob& job_;
  const AttentionTask& task_;
  const int chunk_, rows_, heads_, queries_, head_dim_, padded_dim_;
  const RowBlocks query_blocks_;  // of one tile
  const KvTiles kv_;
  float* const parts_;
  const size_t part_size_;
  const int64_t soon_step_;
  bool seen_ = false;                                  // by any row
  int paged_begin_ = std::numeric_limits<int>::max();  // to paged_end_: the blocks that any row uses in place
  int paged_end_ = 0;
  int shared_begin_ = 0;  // to shared_end_: the whole pages that every row sees; equal if there are none
  int shared_end_ = std::numeric_limits<int>::max();
  float* tiles_;       // [blocks of the chunk][queries][16]: scores, then weights
  float* key_tile_;    // [kAttentionPanels][head_dim][16]
  float* value_tile_;  // [kPagesAhead][16][padded_dim]
  float* all_q_;       // [query_blocks_][head_dim][queries of the block]
  float* row_q_;       // [head_dim][heads]
};

void AttendChunk(const AttentionJob& job, const AttentionTask& task, int chunk, float* parts) {
  ChunkAttention(job, task, chunk, parts).Run();
}

void Divide(const float* part, int head_dim, int padded_dim, float* out) {
  const float total = FoldSum(Load16(part + padded_dim));
  for (int d = 0; d < head_dim; ++d) out[d] = part[d] / total;
}

// to = to * exp(to's maximum - the greater maximum) + part * exp(part's maximum - the greater one).
void FoldPart(const float* part, int padded_dim, float* to) {
  const F16 a = Load16(to + padded_dim + 16), b = Load16(part + padded_dim + 16);
  const F16 maximum = MaxOf(a, b);
  const F16 keep = Exp16(a - maximum), add = Exp16(b - maximum);
  for (int d = 0; d < padded_dim + 16; d += 16) {
    Store16(Fma(Load16(part + d), add, Load16(to + d) * keep), to + d);
  }
  Store16(maximum, to + padded_dim + 16);
}

void FoldChunk(const AttentionJob& job, const AttentionTask& task, int chunk, const float* parts,
               float* folded) {
  const int head_dim = job.layer.head_dim, padded_dim = BlocksFor(head_dim) * 16;
  const size_t size = AttentionPartSize(head_dim);
  for (int r = task.row; r < task.row + task.row_count; ++r) {
    const auto [begin, end] = SeesOfChunk(job, r, chunk);
    const auto all = job.Sees(r);
    float* out = job.out + r * job.out_stride + size_t{1} * task.kv_head * job.heads_per_key * head_dim;
    for (int h = 0; h < job.heads_per_key; ++h, parts += size, folded += size, out += head_dim) {
      if (begin >= end) continue;
      if (begin == all.begin) {
        std::copy_n(parts, size, folded);
      } else {
        FoldPart(parts, padded_dim, folded);
      }
      if (end == all.end) Divide(folded, head_dim, padded_dim, out);
    }
  }
}

}  // namespace clamor::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace clamor::kernels {

constinit const decltype(kAttendChunk) kAttendChunk = {
    {N_SCALAR::AttendChunk, N_AVX2::AttendChunk, N_AVX3::AttendChunk}};
constinit const decltype(kFoldChunk) kFoldChunk = {
    {N_SCALAR::FoldChunk, N_AVX2::FoldChunk, N_AVX3::FoldChunk}};

}  // namespace clamor::kernels
#endif
