// The documents on disk: the one truth of the store. Everything else can be rebuilt from here.
//
// A RocksDB of three column families: `default` holds the format version, `catalog` (namespace, document id)
// -> {number, checksum, tokens}, `documents` (namespace, number) -> token ids. Every change is one write
// batch, synced before it returns. A log torn at its tail by a crash loses nothing that was acknowledged;
// damage elsewhere is DATA_LOSS.
//
// Threads: all methods may be called from any thread. Two changes of the same document at once must be kept
// apart by the caller. Tested by tests/retrieval/document_db_test.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "retrieval/key_codec.h"

namespace rocksdb {
class ColumnFamilyHandle;
class DB;
}  // namespace rocksdb

namespace clamor::retrieval {

class DocumentDb {
 public:
  // One document put, replaced or removed.
  struct Change {
    std::string_view id;
    std::optional<CatalogEntry> before;  // what the catalog holds now
    std::span<const uint32_t> tokens;    // empty: removed
    uint64_t number = 0;                 // of the new document
  };
  using Visitor = absl::FunctionRef<absl::Status(const Namespace&, std::string_view id, const CatalogEntry&)>;

  // Creates `folder` (its parent must exist). FAILED_PRECONDITION names another format version; DATA_LOSS a
  // folder whose table of contents is gone.
  static absl::StatusOr<std::unique_ptr<DocumentDb>> Open(const std::string& folder);
  ~DocumentDb();

  absl::StatusOr<std::optional<CatalogEntry>> Find(std::string_view prefix, std::string_view id) const;
  absl::StatusOr<std::vector<uint32_t>> Read(std::string_view prefix, const CatalogEntry& entry) const;

  // All changes or none, durable on return.
  absl::Status Write(std::string_view prefix, std::span<const Change> changes);

  // Visits the catalog as it was at the call, in key order: all of it, or one tenant's. Stops at the first
  // error.
  absl::Status ForEach(std::string_view tenant, Visitor visit) const;

  // How many token bodies are stored, over all tenants or one; equals the number of catalog entries.
  absl::StatusOr<uint64_t> CountBodies(std::string_view tenant) const;

  // Removes a tenant's documents: they are gone for every later call, and stay gone.
  absl::Status EraseTenant(std::string_view tenant);

  // Rewrites every file that could hold bytes of removed documents in the tenant's range, and starts a new
  // log and a new manifest. Slow: compacts.
  absl::Status PurgeTenant(std::string_view tenant);

  // A copy in `folder`, which must not exist; hard links where the file system allows.
  absl::Status Checkpoint(const std::string& folder) const;

  // Approximate bytes on disk of one tenant.
  uint64_t TenantBytes(std::string_view tenant) const;

 private:
  DocumentDb() = default;
  absl::Status CheckFormat(const std::string& folder);

  std::unique_ptr<rocksdb::DB> db_;
  std::vector<rocksdb::ColumnFamilyHandle*> handles_;  // owned until Close
  rocksdb::ColumnFamilyHandle* catalog_ = nullptr;
  rocksdb::ColumnFamilyHandle* documents_ = nullptr;
  mutable std::mutex files_mu_;  // a checkpoint and a purge both steer the deletion of files
};

}  // namespace clamor::retrieval
