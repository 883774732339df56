// Which pages of the key/value cache hold the beginning of which text, and which of them may go.
//
// A page is known by the page before it and its own sixteen tokens, compared in full: two texts never share a
// page by accident, however they hash. Threads: the engine's only.
// Tested by tests/model/kv_cache_test.cc.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "kernels/kv_layer.h"

namespace clamor {

class PrefixIndex {
 public:
  // A place in a text of one tenant: at the end of a full page, or (`after` 0) its very beginning.
  struct Place {
    uint64_t tenant = 0;  // a hash
    uint64_t after = 0;
    friend bool operator==(const Place&, const Place&) = default;
  };
  using Tokens = std::span<const int32_t, kernels::kPageSize>;

  static constexpr int32_t kNone = -1;

  explicit PrefixIndex(int64_t pages) : entries_(pages) {}

  // The beginning of all texts of one tenant. Tenants do not find each other's pages.
  Place Beginning(std::string_view tenant) const;

  struct Page {
    int32_t page = kNone;
    Place end;
  };
  // The page that continues the text from `from` with `tokens`; page kNone: not known.
  Page Find(Place from, Tokens tokens) const;

  // Makes `page`, leased and not yet known, the one that continues the text from `from` with `tokens`, unless
  // there is one. Returns the place behind it either way.
  Place Add(Place from, Tokens tokens, int32_t page);

  bool Knows(int32_t page) const { return entries_[page].known; }
  // Nobody leases a known page any more: it may be evicted, after those that became idle before it.
  void SetIdle(int32_t page);
  // An idle page is leased again.
  void SetBusy(int32_t page);
  int64_t idle() const { return idle_; }

  // Forgets the idle pages of one tenant, their tokens included, and returns them.
  std::vector<int32_t> Forget(std::string_view tenant);

  // Forgets the page that has been idle longest and returns it; kNone if none is idle. Whoever leases pages
  // returns the last of a text first, so that the end of a text goes before its beginning. (What is left of a
  // text whose beginning went first is not found any more and goes in its turn.)
  int32_t Evict();

 private:
  struct Key {
    Place from;
    std::array<int32_t, kernels::kPageSize> tokens;
    friend bool operator==(const Key&, const Key&) = default;
    template <typename H>
    friend H AbslHashValue(H hash, const Key& key) {
      return H::combine(std::move(hash), key.from.tenant, key.from.after, key.tokens);
    }
  };
  struct Entry {
    bool known = false, idle = false;
    int32_t before = kNone, after = kNone;  // in the list of idle pages
    Key key;
  };

  static Key MakeKey(Place from, Tokens tokens);
  void Remove(int32_t page);

  std::vector<Entry> entries_;  // by page
  absl::flat_hash_map<Key, Page> pages_;
  uint64_t next_place_ = 1;
  int32_t oldest_ = kNone, newest_ = kNone;
  int64_t idle_ = 0;
};

}  // namespace clamor
