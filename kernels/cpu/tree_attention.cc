// Attention as two products by the tile of MatMul: a page of keys is a panel of sixteen columns and head_dim steps; a
// page of values is sixteen steps of head_dim columns. Between them each query's scores lie in a plain array by logical
// position, so the softmax neither knows nor cares where the keys were.

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

HWY_INLINE int RoundDown16(int n) { return n & ~15; }
HWY_INLINE int RoundUp16(int n) { return (n + 15) & ~15; }

// The logical positions that a row sees: [begin, end), of which those below `prefix` are in pages.
struct Visible {
  int begin, prefix, end;
};

// One task at work. Queries are numbered row-major: query = row * heads + head, both relative to the task.
class Attention {
 public:
  Attention(const AttentionJob& job, const AttentionTask& task, Scratch& scratch)
      : job_(job),
        task_(task),
        rows_(task.row_count),
        heads_(task.head_count),
        queries_(rows_ * heads_),
        head_dim_(job.layer.head_dim),
        padded_dim_(RoundUp16(head_dim_)) {
    int first = std::numeric_limits<int>::max(), last = 0;
    shared_begin_ = 0;
    shared_end_ = std::numeric_limits<int>::max();
    for (int r = 0; r < rows_; ++r) {
      const Visible v = Sees(r);
      first = std::min(first, v.begin);
      last = std::max(last, v.end);
      page_end_ = std::max(page_end_, Row(r).prefix);
      shared_begin_ = std::max(shared_begin_, RoundUp16(v.begin));
      shared_end_ = std::min(shared_end_, RoundDown16(v.prefix));
    }
    if (shared_begin_ >= shared_end_) shared_begin_ = shared_end_ = 0;
    base_ = RoundDown16(first);
    // Tiles write sixteen scores at a time, so the last one may run over the end.
    stride_ = RoundUp16(last - base_) + 16;

    const size_t q_size = size_t{1} * queries_ * head_dim_;
    const size_t score_size = size_t{1} * queries_ * stride_;
    float* p = scratch.Get(2 * q_size + 3 * score_size + 16 * head_dim_ + (16 + queries_) * padded_dim_ + queries_);
    const auto take = [&p](size_t count) { return std::exchange(p, p + count); };
    key_tile_ = take(16 * head_dim_);
    value_tile_ = take(16 * padded_dim_);
    sums_ = take(queries_ * padded_dim_);
    scores_ = take(score_size);
    shared_weights_ = take(score_size);
    own_weights_ = take(score_size);
    all_q_ = take(q_size);
    row_q_ = take(q_size);
    totals_ = take(queries_);
  }

  void Run() {
    PackQueries();
    ScorePages();
    for (int r = 0; r < rows_; ++r) ScoreExtras(r);
    for (int r = 0; r < rows_; ++r) {
      for (int h = 0; h < heads_; ++h) Softmax(r, h);
    }
    std::fill_n(sums_, queries_ * padded_dim_, 0.0f);
    // In key order for each row: what only it sees of the front, what all see, the rest of its pages, its extra slots.
    for (int r = 0; r < rows_; ++r) {
      const Visible v = Sees(r);
      AddOwnPages(r, v.begin, std::min(shared_begin_, v.prefix));
    }
    AddSharedPages();
    for (int r = 0; r < rows_; ++r) {
      const Visible v = Sees(r);
      AddOwnPages(r, std::max(shared_end_, v.begin), v.prefix);
      AddExtras(r);
    }
    Finish();
  }

 private:
  const AttentionRow& Row(int r) const { return job_.rows[task_.row + r]; }

  Visible Sees(int r) const {
    const AttentionRow& row = Row(r);
    const int end = row.prefix + row.extra_count;
    const int begin = job_.window > 0 ? std::max(0, end - job_.window) : 0;
    return {begin, std::max(begin, row.prefix), end};
  }

  // Offset of the task's key head in page or slot.
  size_t Block(int32_t page) const { return static_cast<size_t>(page) * job_.layer.kv_heads + task_.kv_head; }
  const float* Keys(int32_t page) const { return job_.layer.keys + Block(page) * kPageSize * head_dim_; }
  const float* Values(int32_t slot) const {
    return job_.layer.values + (Block(slot / kPageSize) * kPageSize + slot % kPageSize) * head_dim_;
  }

  // The weights of row r's heads for the key at `position`, which is not shared; the next key's follow.
  float* OwnWeights(int r, int position) const {
    const int index = position < shared_begin_ ? position : position - (shared_end_ - shared_begin_);
    return own_weights_ + (size_t{1} * r * stride_ + (index - base_)) * heads_;
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

  // Scores of a tile of sixteen keys for some queries, the first of them at `scores`.
  void Score(const float* keys, const float* q, int queries, float* scores, const float* prefetch) const {
    kTiles<WeightsF32>[queries - 1]({.x = q,
                                     .w = keys,
                                     .w_stride = kPageSize,
                                     .k = head_dim_,
                                     .y = scores,
                                     .y_stride = static_cast<size_t>(stride_),
                                     .bias = nullptr,
                                     .accumulate = false,
                                     .prefetch = prefetch,
                                     .prefetch_step = 64});
  }

  // Every page that any row sees, for all rows: what a row does not see of them is overwritten or ignored later.
  void ScorePages() {
    const int32_t* pages = Row(0).pages;
    const int end = RoundUp16(page_end_) / kPageSize;
    for (int i = base_ / kPageSize; i < end; ++i) {
      const float* keys = Keys(pages[i]);
      Score(keys, all_q_, queries_, scores_ + i * kPageSize - base_, i + 1 < end ? Keys(pages[i + 1]) : keys);
    }
  }

  // Gathers row r's extra keys into tiles that look like pages.
  void ScoreExtras(int r) {
    const AttentionRow& row = Row(r);
    for (int e = Sees(r).prefix - row.prefix; e < row.extra_count; e += 16) {
      const int count = std::min(16, row.extra_count - e);
      for (int i = 0; i < count; ++i) {
        const int32_t slot = row.extra[e + i];
        const float* key = Keys(slot / kPageSize) + slot % kPageSize;
        for (int d = 0; d < head_dim_; ++d) key_tile_[d * kPageSize + i] = key[d * kPageSize];
      }
      Score(key_tile_, row_q_ + r * head_dim_ * heads_, heads_,
            scores_ + size_t{1} * r * heads_ * stride_ + (row.prefix + e - base_), key_tile_);
    }
  }

  // Turns the scores of one query into weights, laid out as the x of the second product, and their sum.
  void Softmax(int r, int h) {
    const Visible v = Sees(r);
    const int query = r * heads_ + h;
    float* scores = scores_ + size_t{1} * query * stride_ - base_;
    const int begin = RoundDown16(v.begin), end = RoundUp16(v.end);
    // What is not seen gets weight 0, which changes neither maximum nor sum, and never meets a value.
    std::fill(scores + begin, scores + v.begin, -std::numeric_limits<float>::infinity());
    std::fill(scores + v.end, scores + end, -std::numeric_limits<float>::infinity());
    const F16 scale = Set16(job_.scale);
    F16 best = Set16(-std::numeric_limits<float>::infinity());
    for (int i = begin; i < end; i += 16) best = MaxOf(best, Load16(scores + i) * scale);
    const F16 maximum = Set16(FoldMax(best));
    F16 total = Set16(0.0f);
    for (int i = begin; i < end; i += 16) {
      const F16 weights = Exp16(Load16(scores + i) * scale - maximum);
      total = total + weights;
      float lanes[16];
      Store16(weights, lanes);
      if (i >= shared_begin_ && i < shared_end_) {
        float* to = shared_weights_ + size_t{1} * (i - shared_begin_) * queries_ + query;
        for (int j = 0; j < 16; ++j) to[j * queries_] = lanes[j];
      } else {
        const int last = std::min(i + 16, v.end);
        for (int j = std::max(i, v.begin); j < last; ++j) OwnWeights(r, j)[h] = lanes[j - i];
      }
    }
    totals_[query] = FoldSum(total);
  }

  // Adds weights * values of `count` keys to the sums of some queries. weights: [count][queries].
  void AddValues(const float* values, int64_t stride, int count, const float* weights, int queries, float* sums,
                 const float* prefetch) {
    if (stride % 16 != 0) {  // head_dim is 8 more than a multiple of 16: a tile would run into the next key's value
      for (int i = 0; i < count; ++i) std::memcpy(value_tile_ + i * padded_dim_, values + i * stride, stride * 4);
      values = value_tile_;
      stride = padded_dim_;
    }
    for (int d = 0; d < padded_dim_; d += 16) {
      kTiles<WeightsF32>[queries - 1]({.x = weights,
                                       .w = values + d,
                                       .w_stride = stride,
                                       .k = count,
                                       .y = sums + d,
                                       .y_stride = static_cast<size_t>(padded_dim_),
                                       .bias = nullptr,
                                       .accumulate = true,
                                       .prefetch = prefetch + d,
                                       .prefetch_step = stride * 4});
    }
  }

  void AddOwnPages(int r, int begin, int end) {
    for (int position = begin; position < end;) {
      const int offset = position % kPageSize;
      const int count = std::min(kPageSize - offset, end - position);
      const float* values = Values(Row(r).pages[position / kPageSize] * kPageSize + offset);
      AddValues(values, head_dim_, count, OwnWeights(r, position), heads_, sums_ + r * heads_ * padded_dim_, values);
      position += count;
    }
  }

  void AddSharedPages() {
    const int32_t* pages = Row(0).pages;
    for (int position = shared_begin_; position < shared_end_; position += kPageSize) {
      const float* values = Values(pages[position / kPageSize] * kPageSize);
      const bool last = position + kPageSize == shared_end_;
      const float* next = last ? values : Values(pages[position / kPageSize + 1] * kPageSize);
      AddValues(values, head_dim_, kPageSize, shared_weights_ + size_t{1} * (position - shared_begin_) * queries_,
                queries_, sums_, next);
    }
  }

  void AddExtras(int r) {
    const AttentionRow& row = Row(r);
    for (int e = Sees(r).prefix - row.prefix; e < row.extra_count; e += 16) {
      const int count = std::min(16, row.extra_count - e);
      for (int i = 0; i < count; ++i) {
        std::memcpy(value_tile_ + i * padded_dim_, Values(row.extra[e + i]), head_dim_ * sizeof(float));
      }
      AddValues(value_tile_, padded_dim_, count, OwnWeights(r, row.prefix + e), heads_,
                sums_ + r * heads_ * padded_dim_, value_tile_);
    }
  }

  void Finish() {
    for (int r = 0; r < rows_; ++r) {
      for (int h = 0; h < heads_; ++h) {
        const int query = r * heads_ + h;
        const float* sums = sums_ + query * padded_dim_;
        float* out = job_.out + (task_.row + r) * job_.out_stride + size_t{1} * (task_.head + h) * head_dim_;
        for (int d = 0; d < head_dim_; ++d) out[d] = sums[d] / totals_[query];
      }
    }
  }

  const AttentionJob& job_;
  const AttentionTask& task_;
  const int rows_, heads_, queries_, head_dim_, padded_dim_;
  int base_;                       // the position of scores_[0], a multiple of 16
  int stride_;                     // of scores_, between queries
  int page_end_ = 0;               // the longest prefix
  int shared_begin_, shared_end_;  // whole pages that every row sees; equal if there are none
  float* all_q_;                   // [head_dim][queries]
  float* row_q_;                   // [rows][head_dim][heads]
  float* scores_;                  // [queries][stride]
  float* shared_weights_;          // [shared keys][queries]
  float* own_weights_;             // [rows][other keys][heads]
  float* key_tile_;                // [head_dim][16]
  float* value_tile_;              // [16][padded_dim]
  float* sums_;                    // [queries][padded_dim], of weight * value
  float* totals_;                  // [queries], of weights
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
