// One text and one key head at a time, with the query heads that read it. Queries go by blocks of 48, keys by
// blocks of sixteen; the scores of a query block are [key block][query][16], the tile that both products of
// the forward pass and all five of the backward pass read or write.

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/scratch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/causal_attention.cc"
#include "hwy/foreach_target.h"
#include "kernels/cpu/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace clamor::kernels::HWY_NAMESPACE {

inline constexpr int kKeys = 16;     // of a block
inline constexpr int kQueries = 48;  // of a block; the same on every target, for it shapes no sum
static_assert(kQueries % kTileRows == 0);

// y (+)= x * w for `rows` rows and `columns` columns, a multiple of sixteen.
template <XLayout kLayout>
HWY_INLINE void Multiply(const float* x, int rows, const float* w, int64_t w_stride, int k, int columns,
                         float* y, size_t y_stride, bool accumulate) {
  for (int c = 0; c < columns; c += 16) {
    kTiles<WeightsF32, kLayout>[rows - 1]({.x = x,
                                           .w = w + c,
                                           .w_stride = w_stride,
                                           .k = k,
                                           .y = y + c,
                                           .y_stride = y_stride,
                                           .accumulate = accumulate,
                                           .prefetch = reinterpret_cast<const char*>(w + c),
                                           .prefetch_step = w_stride * 4});
  }
}

class TextAttention {
 public:
  TextAttention(const CausalJob& job, const CausalTask& task, Scratch& scratch)
      : job_(job),
        task_(task),
        dim_(job.shape.head_dim),
        padded_(BlocksFor(dim_) * 16),
        key_blocks_(BlocksFor(task.length)) {
    const size_t pages = size_t{1} * key_blocks_ * dim_ * kKeys;
    const size_t rows = size_t{1} * key_blocks_ * kKeys * padded_;
    const size_t scores = size_t{1} * key_blocks_ * kKeys * kQueries;
    const size_t queries = size_t{1} * kQueries * padded_;
    float* p = scratch.Get(2 * pages + 4 * rows + 2 * scores + 5 * queries);
    key_pages_ = std::exchange(p, p + pages);
    value_pages_ = std::exchange(p, p + pages);
    key_rows_ = std::exchange(p, p + rows);
    value_rows_ = std::exchange(p, p + rows);
    d_key_rows_ = std::exchange(p, p + rows);
    d_value_rows_ = std::exchange(p, p + rows);
    weights_ = std::exchange(p, p + scores);
    d_scores_ = std::exchange(p, p + scores);
    query_rows_ = std::exchange(p, p + queries);
    d_out_rows_ = std::exchange(p, p + queries);
    packed_ = std::exchange(p, p + queries);
    sums_ = p;
  }

  void Forward() {
    PackPages(Key(0), key_pages_);
    CopyRows(Value(0), job_.shape.row_size(), task_.length, key_blocks_ * kKeys, value_rows_);
    ForEachQueryBlock([this](int head) {
      float totals[kQueries];
      Score(Query(head, first_query_), job_.shape.row_size(), key_pages_, weights_);
      for (int q = 0; q < queries_; ++q) totals[q] = Softmax(q);
      MultiplyByKeys(weights_, value_rows_);
      float* out = job_.out + Row(first_query_) * job_.shape.out_size() + head * dim_;
      for (int q = 0; q < queries_; ++q, out += job_.shape.out_size()) {
        for (int d = 0; d < dim_; ++d) out[d] = sums_[q * padded_ + d] / totals[q];
      }
    });
  }

  void Backward() {
    PackPages(Key(0), key_pages_);
    PackPages(Value(0), value_pages_);
    CopyRows(Key(0), job_.shape.row_size(), task_.length, key_blocks_ * kKeys, key_rows_);
    std::fill_n(d_key_rows_, size_t{1} * key_blocks_ * kKeys * padded_, 0.0f);
    std::fill_n(d_value_rows_, size_t{1} * key_blocks_ * kKeys * padded_, 0.0f);
    ForEachQueryBlock([this](int head) {
      const float* d_out = job_.d_out + Row(first_query_) * job_.shape.out_size() + head * dim_;
      Score(Query(head, first_query_), job_.shape.row_size(), key_pages_, weights_);
      Score(d_out, job_.shape.out_size(), value_pages_, d_scores_);
      for (int q = 0; q < queries_; ++q) SoftmaxBackward(q);
      MultiplyByKeys(d_scores_, key_rows_);
      float* d_query = job_.d_qkv + Row(first_query_) * job_.shape.row_size() + head * dim_;
      for (int q = 0; q < queries_; ++q, d_query += job_.shape.row_size()) {
        std::memcpy(d_query, sums_ + q * padded_, dim_ * sizeof(float));
      }
      CopyRows(Query(head, first_query_), job_.shape.row_size(), queries_, queries_, query_rows_);
      CopyRows(d_out, job_.shape.out_size(), queries_, queries_, d_out_rows_);
      AddByQueries(d_scores_, query_rows_, d_key_rows_);
      AddByQueries(weights_, d_out_rows_, d_value_rows_);
    });
    const auto write = [&](const float* rows, const float* of) {
      float* to = job_.d_qkv + (of - job_.qkv);
      for (int i = 0; i < task_.length; ++i, to += job_.shape.row_size()) {
        std::memcpy(to, rows + i * padded_, dim_ * sizeof(float));
      }
    };
    write(d_key_rows_, Key(0));
    write(d_value_rows_, Value(0));
  }

 private:
  static int BlocksFor(int count) { return (count + 15) / 16; }

  int64_t Row(int position) const { return task_.first_row + position; }
  // The vector of one position.
  const float* Query(int head, int position) const {
    return job_.qkv + Row(position) * job_.shape.row_size() + int64_t{head} * dim_;
  }
  const float* Key(int position) const { return Query(job_.shape.heads + task_.kv_head, position); }
  const float* Value(int position) const {
    return Query(job_.shape.heads + job_.shape.kv_heads + task_.kv_head, position);
  }

  // Calls fn(head) for each query block of each query head that reads this key head, with the members that
  // say which block it is.
  template <typename Fn>
  void ForEachQueryBlock(Fn fn) {
    const int group = job_.shape.heads / job_.shape.kv_heads;
    for (int head = task_.kv_head * group; head < (task_.kv_head + 1) * group; ++head) {
      for (first_query_ = 0; first_query_ < task_.length; first_query_ += kQueries) {
        queries_ = std::min(kQueries, task_.length - first_query_);
        first_block_ = FirstKey(0) / kKeys;
        end_block_ = BlocksFor(first_query_ + queries_);
        fn(head);
      }
    }
  }
  // The first key that query q of the block sees; the last one is its own.
  int FirstKey(int q) const {
    return job_.shape.window > 0 ? std::max(0, first_query_ + q + 1 - job_.shape.window) : 0;
  }
  float* Tile16(float* scores, int block, int q) const {
    return scores + (size_t{1} * (block - first_block_) * queries_ + q) * kKeys;
  }

  // Keys or values as [block][dim][16], zero past the end of the text.
  void PackPages(const float* rows, float* pages) const {
    for (int b = 0; b < key_blocks_; ++b, pages += dim_ * kKeys) {
      const int count = std::min(kKeys, task_.length - b * kKeys);
      for (int i = 0; i < kKeys; ++i) {
        const float* row = rows + int64_t{b * kKeys + i} * job_.shape.row_size();
        for (int d = 0; d < dim_; ++d) pages[d * kKeys + i] = i < count ? row[d] : 0.0f;
      }
    }
  }
  // As [rows][padded_], zero where the source has nothing.
  void CopyRows(const float* from, int64_t stride, int count, int rows, float* to) const {
    for (int i = 0; i < rows; ++i, from += stride, to += padded_) {
      const int columns = i < count ? dim_ : 0;
      if (columns > 0) std::memcpy(to, from, columns * sizeof(float));
      std::fill(to + columns, to + padded_, 0.0f);
    }
  }

  // scores[query, key] = the query block's rows times the pages, wherever a query of the tile sees a key of
  // the block.
  void Score(const float* rows, int64_t stride, const float* pages, float* scores) const {
    const RowBlocks tiles(queries_, kTileRows);
    for (int64_t t = 0; t < tiles.count; ++t) {
      const int begin = static_cast<int>(tiles.begin(t)), size = static_cast<int>(tiles.size(t));
      for (int r = 0; r < size; ++r) {
        const float* row = rows + (begin + r) * stride;
        for (int d = 0; d < dim_; ++d) packed_[d * size + r] = row[d];
      }
      const int end = (first_query_ + begin + size - 1) / kKeys + 1;
      for (int b = FirstKey(begin) / kKeys; b < end; ++b) {
        Multiply<XLayout::kPacked>(packed_, size, pages + int64_t{b} * dim_ * kKeys, kKeys, dim_, kKeys,
                                   Tile16(scores, b, begin), kKeys, false);
      }
    }
  }

  // Turns the scores of query q into weights, 0 for all that it does not see, and returns their sum.
  float Softmax(int q) const {
    const int first = FirstKey(q), last = first_query_ + q;
    const int begin = first / kKeys, end = last / kKeys + 1;
    constexpr float kNever = -std::numeric_limits<float>::infinity();
    std::fill_n(Tile16(weights_, begin, q), first % kKeys, kNever);
    std::fill_n(Tile16(weights_, end - 1, q) + last % kKeys + 1, kKeys - 1 - last % kKeys, kNever);
    for (int b = first_block_; b < begin; ++b) std::fill_n(Tile16(weights_, b, q), kKeys, 0.0f);
    for (int b = end; b < end_block_; ++b) std::fill_n(Tile16(weights_, b, q), kKeys, 0.0f);
    const F16 scale = Set16(job_.shape.scale);
    F16 best = Set16(kNever);
    for (int b = begin; b < end; ++b) best = MaxOf(best, Load16(Tile16(weights_, b, q)) * scale);
    const F16 maximum = Set16(FoldMax(best));
    F16 total = Set16(0.0f);
    for (int b = begin; b < end; ++b) {
      const F16 weights = Exp16(Load16(Tile16(weights_, b, q)) * scale - maximum);
      total = total + weights;
      Store16(weights, Tile16(weights_, b, q));
    }
    return FoldSum(total);
  }

  // weights_ from scores to P, d_scores_ from dP to dS.
  void SoftmaxBackward(int q) const {
    const F16 total = Set16(Softmax(q));
    const int begin = FirstKey(q) / kKeys, end = (first_query_ + q) / kKeys + 1;
    F16 products = Set16(0.0f);
    for (int b = begin; b < end; ++b) {
      const F16 p = Load16(Tile16(weights_, b, q)) / total;
      Store16(p, Tile16(weights_, b, q));
      products = Fma(p, Load16(Tile16(d_scores_, b, q)), products);
    }
    const F16 mean = Set16(FoldSum(products));
    const F16 scale = Set16(job_.shape.scale);
    for (int b = begin; b < end; ++b) {
      float* tile = Tile16(d_scores_, b, q);
      Store16(Load16(Tile16(weights_, b, q)) * (Load16(tile) - mean) * scale, tile);
    }
    for (int b = first_block_; b < begin; ++b) std::fill_n(Tile16(d_scores_, b, q), kKeys, 0.0f);
    for (int b = end; b < end_block_; ++b) std::fill_n(Tile16(d_scores_, b, q), kKeys, 0.0f);
  }

  // sums_[query] = sum over keys of tiles[query, key] * rows[key].
  void MultiplyByKeys(float* tiles, const float* rows) const {
    const RowBlocks blocks(queries_, kTileRows);
    for (int64_t t = 0; t < blocks.count; ++t) {
      const int begin = static_cast<int>(blocks.begin(t)), size = static_cast<int>(blocks.size(t));
      for (int b = first_block_; b < end_block_; ++b) {
        Multiply<XLayout::kRows>(Tile16(tiles, b, begin), size, rows + int64_t{b} * kKeys * padded_, padded_,
                                 kKeys, padded_, sums_ + begin * padded_, padded_, b > first_block_);
      }
    }
  }

  // to[key] += sum over queries of tiles[query, key] * rows[query], from the first query on that sees the
  // block.
  void AddByQueries(float* tiles, const float* rows, float* to) const {
    const RowBlocks keys(kKeys, kTileRows);
    for (int b = first_block_; b < end_block_; ++b) {
      const int first = std::max(0, b * kKeys - first_query_);
      for (int64_t t = 0; t < keys.count; ++t) {
        Multiply<XLayout::kColumns>(Tile16(tiles, b, first) + keys.begin(t), static_cast<int>(keys.size(t)),
                                    rows + int64_t{first} * padded_, padded_, queries_ - first, padded_,
                                    to + (b * kKeys + keys.begin(t)) * padded_, padded_, true);
      }
    }
  }

  const CausalJob& job_;
  const CausalTask& task_;
  const int dim_, padded_, key_blocks_;
  // The query block at work, and the key blocks that any of its queries sees.
  int first_query_ = 0, queries_ = 0, first_block_ = 0, end_block_ = 0;
  float *key_pages_, *value_pages_;                              // [key blocks][dim][16]
  float *key_rows_, *value_rows_, *d_key_rows_, *d_value_rows_;  // [key blocks * 16][padded]
  float *weights_, *d_scores_;                                   // [key block][query][16]
  float *query_rows_, *d_out_rows_, *sums_;                      // [queries][padded]
  float* packed_;                                                // [dim][rows of a tile]
};

void AttendText(const CausalJob& job, const CausalTask& task) {
  thread_local Scratch scratch;
  TextAttention(job, task, scratch).Forward();
}

void AttendTextBackward(const CausalJob& job, const CausalTask& task) {
  thread_local Scratch scratch;
  TextAttention(job, task, scratch).Backward();
}

}  // namespace clamor::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace clamor::kernels {

constinit const decltype(kAttendText) kAttendText = {
    {N_SCALAR::AttendText, N_AVX2::AttendText, N_AVX3::AttendText}};
constinit const decltype(kAttendTextBackward) kAttendTextBackward = {
    {N_SCALAR::AttendTextBackward, N_AVX2::AttendTextBackward, N_AVX3::AttendTextBackward}};

}  // namespace clamor::kernels
#endif
