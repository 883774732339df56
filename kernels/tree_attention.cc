#include "kernels/tree_attention.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <vector>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/scratch.h"

namespace clamor::kernels {
namespace {

// Rows of a task read the keys together: more of them save memory traffic, but their scores of a chunk should
// fit the cache beside its keys and values.
constexpr int kTaskQueries = 84;

// What threads share when there are few tasks; bounds the memory of its parts.
constexpr int kPiecesPerThread = 32;

// Neighbours that share `pages`, in groups of about the same size.
void MakeTasks(const AttentionJob& job, std::vector<AttentionTask>& tasks) {
  tasks.clear();
  const int most = std::max(1, kTaskQueries / job.heads_per_key);
  const int count = static_cast<int>(job.rows.size());
  for (int begin = 0, end; begin < count; begin = end) {
    end = begin + 1;
    while (end < count && job.rows[end].pages == job.rows[begin].pages) ++end;
    const RowBlocks groups(end - begin, most);
    for (int64_t i = 0; i < groups.count; ++i) {
      for (int kv_head = 0; kv_head < job.layer.kv_heads; ++kv_head) {
        tasks.push_back({.row = begin + static_cast<int>(groups.begin(i)),
                         .row_count = static_cast<int>(groups.size(i)),
                         .kv_head = kv_head});
      }
    }
  }
}

struct Chunks {
  int begin, end;
};
Chunks ChunksOf(const AttentionJob& job, int row, int count) {
  Chunks chunks = {std::numeric_limits<int>::max(), 0};
  for (int r = row; r < row + count; ++r) {
    const auto [begin, end] = job.Sees(r);
    chunks.begin = std::min(chunks.begin, begin / kKeyChunk);
    chunks.end = std::max(chunks.end, (end - 1) / kKeyChunk + 1);
  }
  return chunks;
}

size_t PartsSize(const AttentionJob& job, int rows) {
  return AttentionPartSize(job.layer.head_dim) * rows * job.heads_per_key;
}

// Calls fn(i) for i < count. Threads take the next i rather than a fixed share: contexts differ in length.
template <class Fn>
void ForEach(size_t count, ThreadPool& pool, Fn fn) {
  if (count == 1) return fn(0);
  std::atomic<size_t> next = 0;
  pool.Run([&](int) {
    for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) fn(i);
  });
}

// Each task on one thread, from its first chunk to its last.
void AttendByTasks(const AttentionJob& job, std::span<const AttentionTask> tasks, ThreadPool& pool) {
  ForEach(tasks.size(), pool, [&](size_t i) {
    const AttentionTask& task = tasks[i];
    thread_local Scratch scratch;
    const size_t size = PartsSize(job, task.row_count);
    float* const parts = scratch.Get(2 * size);
    const Chunks chunks = ChunksOf(job, task.row, task.row_count);
    for (int c = chunks.begin; c < chunks.end; ++c) {
      kAttendChunk.Active()(job, task, c, parts);
      kFoldChunk.Active()(job, task, c, parts, parts + size);
    }
  });
}

// All threads on all tasks, some chunks at a time.
void AttendByChunks(const AttentionJob& job, std::span<const AttentionTask> tasks, Chunks chunks,
                    ThreadPool& pool) {
  const int most = std::max(1, kPiecesPerThread * pool.size() / static_cast<int>(tasks.size()));
  size_t size = 0;
  for (const AttentionTask& task : tasks) size = std::max(size, PartsSize(job, task.row_count));
  thread_local Scratch scratch;
  float* const folded = scratch.Get((std::min(most, chunks.end - chunks.begin) + 1) * tasks.size() * size);
  float* const parts = folded + tasks.size() * size;
  for (int c = chunks.begin; c < chunks.end; c += most) {
    const int count = std::min(most, chunks.end - c);
    ForEach(count * tasks.size(), pool, [&](size_t i) {
      kAttendChunk.Active()(job, tasks[i % tasks.size()], c + static_cast<int>(i / tasks.size()),
                            parts + i * size);
    });
    ForEach(tasks.size(), pool, [&](size_t t) {
      for (int i = 0; i < count; ++i) {
        kFoldChunk.Active()(job, tasks[t], c + i, parts + (i * tasks.size() + t) * size, folded + t * size);
      }
    });
  }
}

}  // namespace

void TreeAttention(const float* q, size_t q_stride, std::span<const AttentionRow> rows, int heads,
                   float scale, int32_t window, const KvLayer& layer, float* out, size_t out_stride,
                   ThreadPool& pool) {
  thread_local std::vector<AttentionTask> tasks;
  const AttentionJob job = {q, q_stride, rows, heads / layer.kv_heads, scale, window, layer, out, out_stride};
  MakeTasks(job, tasks);
  if (tasks.empty()) return;
  const Chunks chunks = ChunksOf(job, 0, static_cast<int>(rows.size()));
  const bool many = tasks.size() >= size_t{4} * pool.size();
  if (many || pool.size() == 1 || chunks.end - chunks.begin == 1) return AttendByTasks(job, tasks, pool);
  AttendByChunks(job, tasks, chunks, pool);
}

}  // namespace clamor::kernels
