// Attention as two products by the tile of MatMul: a page of keys is a panel of sixteen columns and head_dim
// steps; a page of values is sixteen steps of head_dim columns. Between them lie the scores, later the
// weights, of each sixteen logical positions as one [queries][16] tile: what the first product writes and the
// second one reads. So the softmax neither knows nor cares where the keys were.
//
// Positions go by blocks of sixteen. A block whose visible keys all lie in one page is used in place; one
// that holds extra slots is first gathered into a tile that looks like a page.

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/scratch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/tree_attention.cc"
#include "hwy/foreach_target.h"
#include "kernels/cpu/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace clamor::kernels::HWY_NAMESPACE {

HWY_INLINE int BlockOf(int position) { return position / kPageSize; }
HWY_INLINE int BlocksFor(int positions) { return (positions + kPageSize - 1) / kPageSize; }

// The logical positions that a row sees: [begin, end). Blocks below paged_blocks are used in place.
struct Visible {
  int begin, end, paged_blocks;
};

// One task at work. Queries are numbered row by row: query = row * heads + head, both relative to the task.
class Attention {
 public:
  Attention(const AttentionJob& job, const AttentionTask& task, Scratch& scratch)
      : job_(job),
        task_(task),
        rows_(task.row_count),
        heads_(task.head_count),
        queries_(rows_ * heads_),
        head_dim_(job.layer.head_dim),
        padded_dim_(BlocksFor(head_dim_) * 16),
        first_block_(std::numeric_limits<int>::max()),
        shared_end_(std::numeric_limits<int>::max()) {
    int last_block = 0;
    for (int r = 0; r < rows_; ++r) {
      const Visible v = Sees(r);
      first_block_ = std::min(first_block_, BlockOf(v.begin));
      last_block = std::max(last_block, BlocksFor(v.end));
      paged_end_ = std::max(paged_end_, v.paged_blocks);
      shared_begin_ = std::max(shared_begin_, BlocksFor(v.begin));
      shared_end_ = std::min(shared_end_, BlockOf(Row(r).prefix));
    }
    if (shared_begin_ >= shared_end_) shared_begin_ = shared_end_ = first_block_;

    const int q_size = queries_ * head_dim_;
    const int key_size = head_dim_ * kPageSize;
    const int value_size = kPageSize * padded_dim_;
    const int sum_size = queries_ * padded_dim_;
    const size_t tile_size = size_t{1} * (last_block - first_block_) * queries_ * kPageSize;
    float* p = scratch.Get(tile_size + 2 * q_size + key_size + value_size + sum_size + queries_);
    tiles_ = std::exchange(p, p + tile_size);
    key_tile_ = std::exchange(p, p + key_size);
    value_tile_ = std::exchange(p, p + value_size);
    sums_ = std::exchange(p, p + sum_size);
    all_q_ = std::exchange(p, p + q_size);
    row_q_ = std::exchange(p, p + q_size);
    totals_ = p;
  }

  void Run() {
    PackQueries();
    ScorePages();
    for (int r = 0; r < rows_; ++r) {
      ScoreExtras(r);
      for (int h = 0; h < heads_; ++h) Softmax(r, h);
    }
    // In key order for each row: what not all see of the front, what all see, the rest.
    std::fill_n(sums_, queries_ * padded_dim_, 0.0f);
    for (int r = 0; r < rows_; ++r) AddOwnValues(r, BlockOf(Sees(r).begin), shared_begin_);
    AddSharedValues();
    for (int r = 0; r < rows_; ++r) {
      const Visible v = Sees(r);
      AddOwnValues(r, std::max(shared_end_, BlockOf(v.begin)), BlocksFor(v.end));
    }
    Finish();
  }

 private:
  const AttentionRow& Row(int r) const { return job_.rows[task_.row + r]; }

  Visible Sees(int r) const {
    const AttentionRow& row = Row(r);
    const int end = row.prefix + row.extra_count;
    return {.begin = job_.window > 0 ? std::max(0, end - job_.window) : 0,
            .end = end,
            .paged_blocks = row.extra_count > 0 ? BlockOf(row.prefix) : BlocksFor(row.prefix)};
  }

  int32_t SlotOf(const AttentionRow& row, int position) const {
    if (position >= row.prefix) return row.extra[position - row.prefix];
    return row.pages[BlockOf(position)] * kPageSize + position % kPageSize;
  }
  size_t Offset(int32_t page) const {
    return (size_t{1} * page * job_.layer.kv_heads + task_.kv_head) * head_dim_ * kPageSize;
  }
  const float* Keys(int32_t page) const { return job_.layer.keys + Offset(page); }
  const float* Values(int32_t slot) const {
    return job_.layer.values + Offset(slot / kPageSize) + slot % kPageSize * head_dim_;
  }

  // [queries][16], of the queries from row r on.
  float* Tile16(int block, int r) const {
    return tiles_ + (size_t{1} * (block - first_block_) * queries_ + r * heads_) * kPageSize;
  }

  void PackQueries() {
    for (int r = 0; r < rows_; ++r) {
      for (int h = 0; h < heads_; ++h) {
        const float* q = job_.q + (task_.row + r) * job_.q_stride + size_t{1} * (task_.head + h) * head_dim_;
        for (int d = 0; d < head_dim_; ++d) {
          all_q_[d * queries_ + r * heads_ + h] = q[d];
          row_q_[(r * head_dim_ + d) * heads_ + h] = q[d];
        }
      }
    }
  }

  // The scores of sixteen keys for some queries. q: [head_dim][queries].
  void Score(const float* keys, const float* q, int queries, float* scores, const float* next_keys) const {
    kTiles<WeightsF32, XLayout::kPacked>[queries - 1]({.x = q,
                                                       .w = keys,
                                                       .w_stride = kPageSize,
                                                       .k = head_dim_,
                                                       .y = scores,
                                                       .y_stride = kPageSize,
                                                       .prefetch = next_keys,
                                                       .prefetch_step = 64});
  }

  // Every block that any row uses in place, for all rows: what a row does not see of them is overwritten or
  // ignored.
  void ScorePages() const {
    const int32_t* pages = Row(0).pages;
    for (int b = first_block_; b < paged_end_; ++b) {
      Score(Keys(pages[b]), all_q_, queries_, Tile16(b, 0), Keys(pages[b + 1 < paged_end_ ? b + 1 : b]));
    }
  }

  void ScoreExtras(int r) const {
    const AttentionRow& row = Row(r);
    const Visible v = Sees(r);
    for (int b = std::max(v.paged_blocks, BlockOf(v.begin)); b < BlocksFor(v.end); ++b) {
      const int last = std::min((b + 1) * kPageSize, v.end);
      for (int p = std::max(b * kPageSize, v.begin); p < last; ++p) {
        const int32_t slot = SlotOf(row, p);
        const float* key = Keys(slot / kPageSize) + slot % kPageSize;
        for (int d = 0; d < head_dim_; ++d) key_tile_[d * kPageSize + p % kPageSize] = key[d * kPageSize];
      }
      Score(key_tile_, row_q_ + r * head_dim_ * heads_, heads_, Tile16(b, r), key_tile_);
    }
  }

  // Turns the scores of one query into weights, and keeps their sum.
  void Softmax(int r, int h) const {
    const Visible v = Sees(r);
    const int begin = BlockOf(v.begin), end = BlocksFor(v.end);
    const size_t step = size_t{1} * queries_ * kPageSize;
    float* const first = Tile16(begin, r) + h * kPageSize;
    float* const last = first + (end - begin - 1) * step;
    // What is not seen gets weight 0, which changes neither maximum nor sum, and never meets a value.
    std::fill(first, first + v.begin % kPageSize, -std::numeric_limits<float>::infinity());
    std::fill(last + (v.end - 1) % kPageSize + 1, last + kPageSize, -std::numeric_limits<float>::infinity());
    const F16 scale = Set16(job_.scale);
    F16 best = Set16(-std::numeric_limits<float>::infinity());
    for (float* tile = first; tile <= last; tile += step) best = MaxOf(best, Load16(tile) * scale);
    const F16 maximum = Set16(FoldMax(best));
    F16 total = Set16(0.0f);
    for (float* tile = first; tile <= last; tile += step) {
      const F16 weights = Exp16(Load16(tile) * scale - maximum);
      total = total + weights;
      Store16(weights, tile);
    }
    totals_[r * heads_ + h] = FoldSum(total);
  }

  // Adds weights * values of `count` keys to the sums of some queries. weights: [queries][16].
  void AddValues(const float* values, int64_t stride, int count, const float* weights, int queries,
                 float* sums, const float* next_values) const {
    if (stride % 16 != 0) {
      // head_dim is 8 more than a multiple of 16: the last tile would run into the next key's value.
      for (int i = 0; i < count; ++i) {
        std::memcpy(value_tile_ + i * padded_dim_, values + i * stride, stride * sizeof(float));
      }
      values = value_tile_;
      stride = padded_dim_;
    }
    for (int d = 0; d < padded_dim_; d += 16) {
      kTiles<WeightsF32, XLayout::kRows>[queries - 1]({.x = weights,
                                                       .w = values + d,
                                                       .w_stride = stride,
                                                       .k = count,
                                                       .y = sums + d,
                                                       .y_stride = static_cast<size_t>(padded_dim_),
                                                       .accumulate = true,
                                                       .prefetch = next_values + d,
                                                       .prefetch_step = stride * 4});
    }
  }

  void AddOwnValues(int r, int begin_block, int end_block) const {
    const AttentionRow& row = Row(r);
    const Visible v = Sees(r);
    for (int b = begin_block; b < end_block; ++b) {
      const int begin = std::max(b * kPageSize, v.begin), end = std::min((b + 1) * kPageSize, v.end);
      const float* values = value_tile_;
      int64_t stride = padded_dim_;
      if (b < v.paged_blocks) {
        values = Values(SlotOf(row, begin));
        stride = head_dim_;
      } else {
        for (int p = begin; p < end; ++p) {
          std::memcpy(value_tile_ + (p - begin) * padded_dim_, Values(SlotOf(row, p)),
                      head_dim_ * sizeof(float));
        }
      }
      AddValues(values, stride, end - begin, Tile16(b, r) + begin % kPageSize, heads_,
                sums_ + r * heads_ * padded_dim_, values);
    }
  }

  void AddSharedValues() const {
    const int32_t* pages = Row(0).pages;
    for (int b = shared_begin_; b < shared_end_; ++b) {
      const int32_t next = pages[b + 1 < shared_end_ ? b + 1 : b];
      AddValues(Values(pages[b] * kPageSize), head_dim_, kPageSize, Tile16(b, 0), queries_, sums_,
                Values(next * kPageSize));
    }
  }

  void Finish() const {
    for (int query = 0; query < queries_; ++query) {
      const float* sums = sums_ + query * padded_dim_;
      float* out = job_.out + (task_.row + query / heads_) * job_.out_stride +
                   size_t{1} * (task_.head + query % heads_) * head_dim_;
      for (int d = 0; d < head_dim_; ++d) out[d] = sums[d] / totals_[query];
    }
  }

  const AttentionJob& job_;
  const AttentionTask& task_;
  const int rows_, heads_, queries_, head_dim_, padded_dim_;
  int first_block_;       // the first that any row sees
  int paged_end_ = 0;     // the end of those that any row uses in place
  int shared_begin_ = 0;  // with shared_end_: the whole pages that every row sees; equal if there are none
  int shared_end_;
  float* tiles_;       // [blocks][queries][16]: scores, then weights
  float* key_tile_;    // [head_dim][16]
  float* value_tile_;  // [16][padded_dim]
  float* sums_;        // [queries][padded_dim], of weight * value
  float* all_q_;       // [head_dim][queries]
  float* row_q_;       // [rows][head_dim][heads]
  float* totals_;      // [queries], of weights
};

void Attend(const AttentionJob& job, const AttentionTask& task) {
  thread_local Scratch scratch;
  Attention(job, task, scratch).Run();
}

}  // namespace clamor::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace clamor::kernels {

constinit const decltype(kAttend) kAttend = {{N_SCALAR::Attend, N_AVX2::Attend, N_AVX3::Attend}};

}  // namespace clamor::kernels
#endif
