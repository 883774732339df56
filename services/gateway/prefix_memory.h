// Which worker has read which beginning of a prompt, so that the next that begins alike goes where it is
// cached. A guess: workers evict what they like. Kept are hashes, never tokens, and apart for each tenant.
//
// Not thread-safe. Tested by tests/services/gateway/prefix_memory_test.cc.
#pragma once

#include <cstdint>
#include <list>
#include <span>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace clamor {

class PrefixMemory {
 public:
  static constexpr size_t kBlock = 64;       // tokens: beginnings are known at multiples of it
  static constexpr size_t kMaxBlocks = 512;  // of one prompt
  static constexpr size_t kEntries = 65536;  // the longest unused go

  explicit PrefixMemory(size_t entries = kEntries) : entries_(entries) {}

  struct Match {
    std::string worker;  // address
    size_t tokens;       // of the prompt's beginning
  };
  // Who read the prompt's known beginnings last: the longest first, each worker once.
  std::vector<Match> Find(absl::string_view tenant, std::span<const uint32_t> prompt) const;

  void Add(absl::string_view tenant, std::span<const uint32_t> prompt, const std::string& worker);
  void ForgetTenant(absl::string_view tenant);
  void ForgetWorker(absl::string_view worker);

  size_t size() const { return places_.size(); }

 private:
  struct Entry {
    uint64_t key, tenant;  // hashes: of the beginning, of the tenant
    std::string worker;
  };
  template <class Gone>
  void Erase(Gone gone);

  const size_t entries_;
  std::list<Entry> by_use_;  // the newest first
  absl::flat_hash_map<uint64_t, std::list<Entry>::iterator> places_;
};

}  // namespace clamor
