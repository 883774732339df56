#include "kernels/tree_attention.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "kernels/cpu/ops.h"

namespace clamor::kernels {
namespace {

// Neighbours that share `pages`, as many as one tile of the product takes: the keys are read once for all of
// them.
void MakeTasks(std::span<const AttentionRow> rows, int heads, int kv_heads,
               std::vector<AttentionTask>& tasks) {
  tasks.clear();
  const int limit = kMaxTileRows.Active();
  const RowBlocks groups(heads / kv_heads, limit);  // of query heads
  const int rows_per_task = std::max(1, limit / static_cast<int>(groups.size(groups.count - 1)));
  const int count = static_cast<int>(rows.size());
  for (int begin = 0, end; begin < count; begin = end) {
    end = begin + 1;
    while (end < count && end - begin < rows_per_task && rows[end].pages == rows[begin].pages) ++end;
    for (int kv_head = 0; kv_head < kv_heads; ++kv_head) {
      for (int64_t g = 0; g < groups.count; ++g) {
        tasks.push_back({.row = begin,
                         .row_count = end - begin,
                         .head = static_cast<int>(kv_head * groups.rows + groups.begin(g)),
                         .head_count = static_cast<int>(groups.size(g)),
                         .kv_head = kv_head});
      }
    }
  }
}

// Where the elements of (slot, head) start; those of a key are kPageSize apart, those of a value adjacent.
float* KeyAt(const KvLayer& layer, int32_t slot, int head) {
  const size_t block = size_t{static_cast<uint32_t>(slot / kPageSize)} * layer.kv_heads + head;
  return layer.keys + block * layer.head_dim * kPageSize + slot % kPageSize;
}
float* ValueAt(const KvLayer& layer, int32_t slot, int head) {
  const size_t block = size_t{static_cast<uint32_t>(slot / kPageSize)} * layer.kv_heads + head;
  return layer.values + (block * kPageSize + slot % kPageSize) * layer.head_dim;
}

}  // namespace

void StoreKv(const float* k, size_t k_stride, const float* v, size_t v_stride, int64_t rows,
             const int32_t* slots, const KvLayer& layer, ThreadPool& pool) {
  pool.ParallelFor(rows, 16, [&](size_t begin, size_t end) {
    for (size_t r = begin; r < end; ++r) {
      for (int h = 0; h < layer.kv_heads; ++h) {
        const float* from = k + r * k_stride + size_t{1} * h * layer.head_dim;
        float* key = KeyAt(layer, slots[r], h);
        for (int d = 0; d < layer.head_dim; ++d) key[d * kPageSize] = from[d];
        std::memcpy(ValueAt(layer, slots[r], h), v + r * v_stride + size_t{1} * h * layer.head_dim,
                    layer.head_dim * sizeof(float));
      }
    }
  });
}

void MoveKv(const KvLayer& layer, int32_t from, int32_t to) {
  if (from == to) return;
  for (int h = 0; h < layer.kv_heads; ++h) {
    const float* source = KeyAt(layer, from, h);
    float* key = KeyAt(layer, to, h);
    for (int d = 0; d < layer.head_dim; ++d) key[d * kPageSize] = source[d * kPageSize];
    std::memcpy(ValueAt(layer, to, h), ValueAt(layer, from, h), layer.head_dim * sizeof(float));
  }
}

void TreeAttention(const float* q, size_t q_stride, std::span<const AttentionRow> rows, int heads,
                   float scale, int32_t window, const KvLayer& layer, float* out, size_t out_stride,
                   ThreadPool& pool) {
  thread_local std::vector<AttentionTask> tasks;
  MakeTasks(rows, heads, layer.kv_heads, tasks);
  if (tasks.empty()) return;
  const AttentionJob job = {q, q_stride, rows, scale, window, layer, out, out_stride};
  const auto attend = kAttend.Active();
  // Contexts differ in length, so threads take the next task rather than a fixed share. (`tasks` names the
  // thread's own vector inside the lambda, hence the span.)
  const std::span<const AttentionTask> todo = tasks;
  std::atomic<size_t> next = 0;
  const auto work = [&](int) {
    for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < todo.size();) attend(job, todo[i]);
  };
  if (todo.size() == 1) return work(0);
  pool.Run(work);
}

}  // namespace clamor::kernels
