// Keys and values of all sequences, in pages of kernels::kPageSize tokens.
//
// A KvLease holds pages and gives them back when it is destroyed; there is no release call to forget. Pages
// that a text has filled are kept, while there is room, for texts of the same tenant that begin alike: keys
// and values depend on nothing but the tokens up to their own, so a page found holds the very bits that
// reading the text again would write, in every format (kernels/kv_layer.h).
// Threads: one thread at a time, the engine's.
// Tested by tests/model/kv_cache_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/kv_layer.h"
#include "model/config.h"
#include "model/prefix_index.h"

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
  int64_t shared_ = 0;        // pages from the first that the index has seen: never written again
  PrefixIndex::Place place_;  // behind them
};

class KvCache {
 public:
  // Memory is reserved, not touched: pages cost nothing until they are written, and then come, where the
  // system grants it, in huge pages (2 MiB for the keys and for the values of each layer at least). REQUIRES:
  // pages > 0.
  KvCache(const ModelConfig& config, int64_t pages, kernels::KvFormat format = kernels::KvFormat::kF32);
  ~KvCache();
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  // What a page takes of memory, over all layers; a cache takes this times its pages, once all are written.
  static size_t BytesPerPage(const ModelConfig& config, kernels::KvFormat format);
  static int64_t PagesFor(int64_t tokens) { return (tokens + kernels::kPageSize - 1) / kernels::kPageSize; }

  // A lease of the full pages that hold the longest known beginning of `text`: the keys and values of its
  // first lease.tokens() tokens are there. Empty if none is known.
  KvLease Find(std::string_view tenant, std::span<const int32_t> text);
  // Makes `lease` hold `tokens` tokens or more. False, and nothing has changed, if too few pages are free.
  // Pages that no lease holds are taken from those kept for other texts, the longest unused first.
  bool Grow(KvLease& lease, int64_t tokens);
  // Gives back the pages that hold nothing of the first `tokens` tokens.
  void Shrink(KvLease& lease, int64_t tokens);
  // The keys and values of `text` have been written to a lease that came from Find for the same tenant: its
  // full pages may serve others from now on, and must not be written again.
  void Share(KvLease& lease, std::span<const int32_t> text);

  // Forgets what is kept of one tenant's texts, tokens, keys and values, but for pages that are leased.
  void Forget(std::string_view tenant);

  kernels::KvLayer layer(int i) const;
  // Copies key and value of one slot to another in every layer, bit for bit.
  void Move(int32_t from, int32_t to);

  int64_t pages_total() const { return static_cast<int64_t>(leases_.size()); }
  int64_t pages_used() const { return pages_total() - pages_free(); }  // by leases; one that two hold once
  int64_t pages_free() const { return static_cast<int64_t>(free_.size()) + prefixes_.idle(); }

 private:
  friend class KvLease;
  void Release(std::span<const int32_t> pages);

  int kv_heads_, head_dim_, layers_;
  kernels::KvFormat format_;
  size_t half_layer_bytes_;      // of keys (and as many of values) in one layer
  std::byte* memory_;            // [layers][2][pages][kv_heads] tiles
  std::vector<int32_t> leases_;  // by page: how many hold it
  std::vector<int32_t> free_;    // pages that hold nothing of use
  PrefixIndex prefixes_;
};

}  // namespace clamor
