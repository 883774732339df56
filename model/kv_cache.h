// Keys and values of all sequences, in pages of kernels::kPageSize tokens.
//
// A KvLease holds pages and gives them back when it is destroyed; there is no release call to forget.
// Threads: one thread at a time, the engine's.
// Tested by tests/model/kv_cache_test.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernels/tree_attention.h"
#include "model/config.h"

namespace clamor {

class KvCache;

// Pages of one sequence, in logical order: token t lies in slot pages()[t / kPageSize] * kPageSize + t %
// kPageSize.
class KvLease {
 public:
  KvLease() = default;
  KvLease(KvLease&& other) noexcept;
  KvLease& operator=(KvLease&& other) noexcept;
  ~KvLease();

  std::span<const int32_t> pages() const { return pages_; }
  int64_t tokens() const { return static_cast<int64_t>(pages_.size()) * kernels::kPageSize; }
  // REQUIRES: 0 <= token < tokens().
  int32_t Slot(int64_t token) const {
    return pages_[token / kernels::kPageSize] * kernels::kPageSize +
           static_cast<int32_t>(token % kernels::kPageSize);
  }

 private:
  friend class KvCache;
  KvCache* cache_ = nullptr;  // outlives the lease
  std::vector<int32_t> pages_;
};

class KvCache {
 public:
  // Memory is reserved, not touched: pages cost nothing until they are written. REQUIRES: pages > 0.
  KvCache(const ModelConfig& config, int64_t pages);
  ~KvCache();
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  static size_t BytesPerPage(const ModelConfig& config);
  static int64_t PagesFor(int64_t tokens) { return (tokens + kernels::kPageSize - 1) / kernels::kPageSize; }

  // Room for `tokens` tokens, or nothing if too few pages are free.
  std::optional<KvLease> Lease(int64_t tokens);

  kernels::KvLayer layer(int i) const;
  // Copies key and value of one slot to another in every layer, bit for bit.
  void Move(int32_t from, int32_t to);

  int64_t pages_total() const { return pages_total_; }
  int64_t pages_used() const { return pages_total_ - static_cast<int64_t>(free_.size()); }

 private:
  friend class KvLease;
  int kv_heads_, head_dim_, layers_;
  int64_t pages_total_;
  size_t layer_floats_;  // of keys (and as many of values) in one layer
  float* memory_;        // [layers][2][pages][kv_heads * head_dim * kPageSize]
  std::vector<int32_t> free_;
};

}  // namespace clamor
