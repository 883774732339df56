// What drafting has learned, apart for each tenant, for at most kTenants of them; the longest unused is
// forgotten.
//
// Threads: the engine's only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "model/spec/merged_drafter.h"

namespace clamor {

class KnowledgePool {
 public:
  static constexpr size_t kTenants = 64;

  // Shared with the sequences that use it, so that forgetting a tenant leaves its running sequences alone.
  std::shared_ptr<DraftKnowledge> Get(const std::string& tenant) {
    Entry& entry = tenants_[tenant];
    if (entry.knowledge == nullptr) entry.knowledge = std::make_shared<DraftKnowledge>();
    entry.last_use = ++uses_;
    std::shared_ptr<DraftKnowledge> knowledge = entry.knowledge;
    if (tenants_.size() > kTenants) {
      tenants_.erase(std::min_element(tenants_.begin(), tenants_.end(), [](const auto& a, const auto& b) {
        return a.second.last_use < b.second.last_use;
      }));
    }
    return knowledge;
  }

 private:
  struct Entry {
    std::shared_ptr<DraftKnowledge> knowledge;
    uint64_t last_use = 0;
  };
  absl::flat_hash_map<std::string, Entry> tenants_;
  uint64_t uses_ = 0;
};

}  // namespace clamor
