// What drafting has learned, apart for each tenant, for at most kTenants of them; the longest unused is
// forgotten. With files, a tenant who is new here continues from what the last worker kept, and what is
// learned here is kept: every interval while the tenant is served, when it is forgotten, and at the end.
//
// Threads: the engine's only. Tested by tests/services/worker/engine_{drafting,knowledge}_test.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "model/spec/merged_drafter.h"
#include "services/worker/knowledge_files.h"

namespace clamor {

class KnowledgePool {
 public:
  static constexpr size_t kTenants = 64;

  explicit KnowledgePool(KnowledgeFiles* files = nullptr) : files_(files) {}  // outlives the pool

  // Shared with the sequences that use it, so that forgetting a tenant leaves its running sequences alone.
  std::shared_ptr<DraftKnowledge> Get(const std::string& tenant);

  // Forgets a tenant for good, here and in the files. REQUIRES: no sequence of it is left.
  void Drop(const std::string& tenant);

  // Hands a copy of what one tenant has taught to the files, if that is due and they have nothing else to
  // do; 20 ms where the table holds all of 150,000 tokens. Returns when to ask again.
  absl::Time SaveDue(absl::Time now);

  // All that is not kept yet, waiting for the disk until `deadline`.
  void SaveAll(absl::Time deadline);

 private:
  struct Entry {
    std::shared_ptr<DraftKnowledge> knowledge;
    uint64_t last_use = 0;
    absl::Time due = absl::InfiniteFuture();  // when to save; never if all that was learned is saved
  };
  void Forget();

  KnowledgeFiles* const files_;
  absl::flat_hash_map<std::string, Entry> tenants_;
  uint64_t uses_ = 0;
};

}  // namespace clamor
