#include "kernels/causal_attention.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "kernels/cpu/ops.h"

namespace clamor::kernels {
namespace {

// Calls attend once for each text and key head. The longest texts go first, and whoever is free takes the
// next: their cost grows with the square of their length.
void ForEachTask(const CausalJob& job, std::span<const int64_t> starts, ThreadPool& pool,
                 void (*attend)(const CausalJob& job, const CausalTask& task)) {
  std::vector<CausalTask> tasks;
  for (size_t t = 0; t + 1 < starts.size(); ++t) {
    const int64_t length = starts[t + 1] - starts[t];
    if (length == 0) continue;
    for (int h = 0; h < job.shape.kv_heads; ++h) tasks.push_back({starts[t], static_cast<int>(length), h});
  }
  std::stable_sort(tasks.begin(), tasks.end(),
                   [](const CausalTask& a, const CausalTask& b) { return a.length > b.length; });
  std::atomic<size_t> next = 0;
  pool.Run([&](int) {
    for (size_t i = next++; i < tasks.size(); i = next++) attend(job, tasks[i]);
  });
}

}  // namespace

void CausalAttention(const float* qkv, std::span<const int64_t> starts, const CausalShape& shape, float* out,
                     ThreadPool& pool) {
  ForEachTask({.qkv = qkv, .shape = shape, .out = out}, starts, pool, kAttendText.Active());
}

void CausalAttentionBackward(const float* qkv, const float* d_out, std::span<const int64_t> starts,
                             const CausalShape& shape, float* d_qkv, ThreadPool& pool) {
  ForEachTask({.qkv = qkv, .shape = shape, .d_out = d_out, .d_qkv = d_qkv}, starts, pool,
              kAttendTextBackward.Active());
}

}  // namespace clamor::kernels
