// Last seen likely successors of each token (Token Recycling, arXiv 2408.08696): source A.
//
// One table serves all sequences of a tenant, so that new requests start warm. Bounded by the vocabulary: 72
// bytes for each token that was ever looked behind. Threads: the engine's only.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

#include "absl/container/flat_hash_map.h"

namespace clamor {

class Adjacency {
 public:
  static constexpr int kSuccessors = 8;
  struct Entry {
    std::array<int32_t, kSuccessors> tokens;  // best first; -1: none
    std::array<float, kSuccessors> log_probabilities;
  };

  // `tokens` best first; the newest observation replaces older ones.
  void Observe(int32_t token, std::span<const int32_t> tokens, std::span<const float> log_probabilities) {
    Entry& entry = entries_[token];
    entry.tokens.fill(-1);
    const size_t n = std::min<size_t>(kSuccessors, tokens.size());
    std::copy_n(tokens.begin(), n, entry.tokens.begin());
    std::copy_n(log_probabilities.begin(), n, entry.log_probabilities.begin());
  }
  // Null if `token` was never observed. Valid until the next Observe.
  const Entry* Find(int32_t token) const {
    const auto it = entries_.find(token);
    return it == entries_.end() ? nullptr : &it->second;
  }
  size_t size() const { return entries_.size(); }

  // To keep a table and to have it again (knowledge_file.h).
  const absl::flat_hash_map<int32_t, Entry>& entries() const { return entries_; }
  void Reserve(size_t entries) { entries_.reserve(entries); }
  void Restore(int32_t token, const Entry& entry) { entries_[token] = entry; }

 private:
  absl::flat_hash_map<int32_t, Entry> entries_;
};

}  // namespace clamor
