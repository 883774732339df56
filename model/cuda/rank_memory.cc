#include "model/cuda/rank_memory.h"

#include <algorithm>

#include "kernels/cuda/matmul.h"
#include "kernels/cuda/tree_attention.h"
#include "model/cuda/step_layout.h"

namespace clamor {

using kernels::cuda::kPageTokens;

int64_t RankSizes::rows() const { return kernels::cuda::PaddedRows(limits.rows); }
int64_t RankSizes::cache_pages() const { return (slots + RoundedRows(limits.rows)) / kPageTokens + 1; }

RankMemory::RankMemory(const RankSizes& s, std::byte* base) {
  const ModelConfig& c = *s.config;
  const int64_t rows = s.rows(), shards = s.range.count;
  const auto place = [&]<class T>(T*& to, size_t count) {
    to = reinterpret_cast<T*>(base + bytes);
    bytes += (count * sizeof(T) + 255) / 256 * 256;
  };
  place(hidden, rows * c.hidden_size);
  place(normed, rows * c.hidden_size);
  place(qkv, rows * s.qkv());
  place(q, rows * s.q());
  place(attention, rows * s.q());
  place(gate_up, rows * 2 * s.mlp());
  place(gated, rows * s.mlp());
  place(selected, rows * c.hidden_size);
  if (s.quantised) {
    const int64_t widest = std::max({int64_t{c.hidden_size}, s.q(), s.mlp()});
    place(quantised.q, rows * kernels::cuda::GroupCount(widest) * kernels::kGroup);
    place(quantised.scales, kernels::cuda::GroupCount(widest) * rows);
  }
  place(workspace, kernels::cuda::TreeAttentionWorkspace(rows, s.heads(), c.head_dim,
                                                         RoundedPages(s.max_positions / kPageTokens + 1)));
  for (float*& part : parts) place(part, shards * rows * c.hidden_size);
  place(part_logits, shards * rows * s.vocab());
  logits = part_logits;
  if (shards > 1) place(logits, shards * rows * s.vocab());
  place(layers, c.layers * s.range.held);
  place(kv, size_t{2} * c.layers * s.range.held * s.cache_pages() * kPageTokens * s.kv() * sizeof(uint16_t));
}

}  // namespace clamor
