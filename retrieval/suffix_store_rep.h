// What a SuffixStore is made of; included by its own files alone. suffix_store.cc has what drafts and
// changes, suffix_store_load.cc what takes in whole segments, suffix_store_upkeep.cc what looks after the
// folder.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "retrieval/bulk_files.h"
#include "retrieval/compactor.h"
#include "retrieval/document_db.h"
#include "retrieval/folder_lock.h"
#include "retrieval/integrity.h"
#include "retrieval/namespace_index.h"
#include "retrieval/recovery.h"
#include "retrieval/suffix_store.h"
#include "retrieval/tenant_count.h"

namespace clamor::retrieval {

inline constexpr size_t kKeptChanges = 1 << 15;
inline constexpr char kDbFolder[] = "/db", kSegmentsFolder[] = "/segments";
inline constexpr char kLoadingFolder[] = "/loading";  // table files on their way into db

absl::Status CreateFolder(const std::string& folder);

// One tenant: the unit of quota, and of who waits for whom.
struct Tenant {
  std::mutex write_mu;  // serializes changes, across the wait for the disk; taken before mu
  bool erased = false;  // no longer in the store's map; guarded by write_mu

  std::shared_mutex mu;  // held briefly; guards what follows
  TenantCount count;
  std::map<std::string, std::shared_ptr<NamespaceIndex>, std::less<>> indexes;  // by fingerprint

  std::shared_ptr<NamespaceIndex> Find(std::string_view fingerprint) {
    const std::shared_lock lock(mu);
    const auto found = indexes.find(fingerprint);
    return found == indexes.end() ? nullptr : found->second;
  }
  std::shared_ptr<NamespaceIndex> FindOrAdd(const Namespace& ns, std::atomic<int64_t>& hot_tokens) {
    const std::lock_guard lock(mu);
    std::shared_ptr<NamespaceIndex>& index = indexes[ns.fingerprint];
    if (index == nullptr) index = std::make_shared<NamespaceIndex>(NamespacePrefix(ns), hot_tokens);
    return index;
  }
  std::vector<std::shared_ptr<NamespaceIndex>> Indexes() {
    const std::shared_lock lock(mu);
    std::vector<std::shared_ptr<NamespaceIndex>> all;
    for (const auto& [fingerprint, index] : indexes) all.push_back(index);
    return all;
  }
  // `more` may be negative, as a difference that wraps around.
  void Count(const TenantCount& more) {
    const std::lock_guard lock(mu);
    count += more;
  }
};

struct SuffixStore::Rep {
  Rep(StoreOptions store_options, FolderLock folder_lock, std::unique_ptr<DocumentDb> document_db,
      const SegmentFiles& files)
      : options(std::move(store_options)),
        lock(std::move(folder_lock)),
        db(std::move(document_db)),
        compactor(options.path + kSegmentsFolder, files.next_file, options.hot_tokens),
        next_number(files.next_document) {}
  ~Rep();

  absl::Status Restore(SegmentFiles files);
  void StartUpkeep();
  void ReadAhead();
  uint64_t Now() const;
  std::shared_ptr<Tenant> Find(std::string_view name) const;
  std::shared_ptr<Tenant> FindOrAdd(std::string_view name);
  std::vector<std::pair<std::string, std::shared_ptr<Tenant>>> Tenants() const;

  // Calls `change` on the tenant while no other change of it is under way.
  template <typename Change>
  auto Exclusively(std::string_view name, Change change) {
    for (;;) {
      const std::shared_ptr<Tenant> tenant = FindOrAdd(name);
      const std::lock_guard writing(tenant->write_mu);
      if (!tenant->erased) return change(*tenant);
    }
  }
  absl::StatusOr<uint64_t> RemoveExpired();

  // The rest REQUIRES: tenant.write_mu is held.
  absl::StatusOr<std::vector<bool>> AppendTo(Tenant& tenant, const Namespace& ns,
                                             std::span<const Document> documents);
  absl::StatusOr<bool> IsBody(std::string_view prefix, const std::optional<CatalogEntry>& entry,
                              std::span<const uint32_t> tokens) const;
  absl::StatusOr<LoadOutcome> LoadInto(Tenant& tenant, const BulkSegment& bulk);
  absl::Status CheckQuota(Tenant& tenant, const TenantCount& more) const;
  absl::Status CheckDisk(uint64_t more_bytes) const;
  absl::StatusOr<uint64_t> RemoveExpiredFrom(Tenant& tenant, const Namespace& ns,
                                             std::span<const DocumentDb::Due> due, uint64_t now);
  absl::StatusOr<bool> DeleteFrom(Tenant& tenant, const Namespace& ns, std::string_view document_id);
  absl::StatusOr<uint64_t> Erase(std::string_view name, Tenant& tenant);

  const StoreOptions options;
  const FolderLock lock;
  const std::unique_ptr<DocumentDb> db;
  Compactor compactor;
  std::atomic<uint64_t> next_number;
  ChangeLog changes{kKeptChanges};
  mutable std::shared_mutex mu;  // guards what follows
  std::map<std::string, std::shared_ptr<Tenant>, std::less<>> tenants;

  std::mutex upkeep_mu;  // for the next two
  std::atomic<bool> stopping = false;
  std::condition_variable upkeep_stop;
  std::thread upkeep;  // reads ahead, then removes what expires
};

}  // namespace clamor::retrieval
