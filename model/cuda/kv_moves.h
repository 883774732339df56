// Keys and values of accepted guesses that wait to be moved before the next step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/kv_pages.h"
#include "kernels/cuda/stream.h"
#include "model/kv_cache.h"

namespace clamor {

// One thread at a time.
class KvMoves {
 public:
  explicit KvMoves(int32_t max_sequences);

  bool empty() const { return queued_.empty(); }
  bool full() const { return queued_.size() == static_cast<size_t>(max_sequences_); }
  // As ForwardPass::Move; of each sequence at most once until Clear. REQUIRES: !full().
  void Add(std::span<const int32_t> from, const KvLease& lease, int64_t first);
  void Clear();

  // What goes up to a device for them.
  size_t bytes() const { return places_.bytes; }
  void Write(std::byte* to) const;
  // Moves in all `layers`, [layer_count] in device memory, by what Write wrote and `device` now has.
  void Run(const std::byte* device, const kernels::cuda::KvPages* layers, int layer_count, int kv_heads,
           int head_dim, kernels::cuda::Stream stream) const;

 private:
  // In the words of CommitKv: each sequence is a tree, of whose nodes all are accepted.
  struct Places {
    explicit Places(size_t sequences);
    size_t trees = 0, accepted, pages, slots, bytes;
  };
  // One behind the other for each sequence.
  struct Moves {
    int32_t first;  // of from_
    int32_t count;
    int32_t offset;  // of the first place, in the first of its pages
  };

  const int32_t max_sequences_;
  const Places places_;
  std::vector<Moves> queued_;
  std::vector<int32_t> from_;   // slots
  std::vector<int32_t> pages_;  // [queued_][pages that the nodes of a tree can fall into]
};

}  // namespace clamor
