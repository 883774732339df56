// The documents on disk: the one truth of the store. Everything else can be rebuilt from here.
//
// A RocksDB of four column families: `default` holds the format version, `catalog` (namespace, document id)
// -> {number, checksum, tokens, expiry}, `documents` (namespace, number) -> token ids, `expiries` (namespace,
// expiry, document id) -> nothing. Every change is one step, synced before it returns. A log torn at its tail
// by a crash loses nothing that was acknowledged; damage elsewhere is DATA_LOSS.
//
// Format version 2 is version 1 plus documents that expire; a folder becomes version 2 with the first of
// them, so that until then the program that wrote it can go on with it.
//
// Threads: all methods may be called from any thread. Two changes of the same document at once must be kept
// apart by the caller. Tested by tests/retrieval/document_db_test.cc.
#pragma once

#include <array>
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
class Env;
class WriteBatch;
}  // namespace rocksdb

namespace clamor::retrieval {

class RocksWriter;

class DocumentDb {
 public:
  // One document put, replaced or removed, or told another expiry: then `number` is that of `before`.
  struct Change {
    std::string_view id;
    std::optional<CatalogEntry> before;  // what the catalog holds now
    std::span<const uint32_t> tokens;    // empty: removed
    uint64_t number = 0;                 // of the new document
    uint64_t expires = 0;                // as in CatalogEntry
  };
  struct Due {
    Namespace ns;
    std::string id;
  };
  using Visitor = absl::FunctionRef<absl::Status(const Namespace&, std::string_view id, const CatalogEntry&)>;

  // Creates `folder` (its parent must exist). FAILED_PRECONDITION names another format version; DATA_LOSS a
  // folder whose table of contents is gone. `env`, of what is written, outlives it; null: the system's.
  static absl::StatusOr<std::unique_ptr<DocumentDb>> Open(const std::string& folder,
                                                          rocksdb::Env* env = nullptr);
  ~DocumentDb();

  absl::StatusOr<std::optional<CatalogEntry>> Find(std::string_view prefix, std::string_view id) const;
  absl::StatusOr<std::vector<uint32_t>> Read(std::string_view prefix, const CatalogEntry& entry) const;

  // All changes or none, durable on return.
  absl::Status Write(std::string_view prefix, std::span<const Change> changes);

  // As Write, for many documents: as finished table files, which cost neither log nor memory. They are made
  // in `scratch`, a folder on the same disk, made if missing and removed in the end. REQUIRES: the ids
  // differ, and new numbers are above those of all `before`.
  absl::Status Ingest(std::string_view prefix, std::span<const Change> changes, const std::string& scratch);

  // Up to `limit` documents that expired at `now` or before, those of one namespace together.
  absl::StatusOr<std::vector<Due>> FindExpired(uint64_t now, size_t limit) const;

  // Up to `limit` entries of the catalog, over all tenants and in the order of their keys: from the first
  // whose key (CatalogKey) is above `after`.
  struct Listed {
    Namespace ns;
    std::string id;
    CatalogEntry entry;
  };
  absl::StatusOr<std::vector<Listed>> List(std::string_view after, size_t limit) const;

  // Visits the catalog as it was at the call, in key order: all of it, or one tenant's. Stops at the first
  // error.
  absl::Status ForEach(std::string_view tenant, Visitor visit) const;

  // How many token bodies are stored, over all tenants or one; equals the number of catalog entries.
  absl::StatusOr<uint64_t> CountBodies(std::string_view tenant) const;
  // The same for expiries, and for catalog entries that expire.
  absl::StatusOr<uint64_t> CountExpiries(std::string_view tenant) const;
  absl::StatusOr<bool> HasExpiry(std::string_view prefix, uint64_t expires, std::string_view id) const;

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
  struct Row;
  struct Rows;

  DocumentDb() = default;
  absl::Status CheckFormat(const std::string& folder);
  absl::Status Write(rocksdb::WriteBatch& batch, const std::string& doing);
  absl::Status PutFormat(const std::string& version, const char* doing);
  // What `changes` do to each family; brings the format up to what they need.
  absl::StatusOr<Rows> MakeRows(std::string_view prefix, std::span<const Change> changes);
  absl::StatusOr<uint64_t> CountKeys(rocksdb::ColumnFamilyHandle* family, std::string_view tenant,
                                     absl::FunctionRef<absl::Status(std::string_view rest)> check) const;
  std::array<rocksdb::ColumnFamilyHandle*, 3> families() const { return {catalog_, documents_, expiries_}; }

  std::unique_ptr<rocksdb::DB> db_;
  std::vector<rocksdb::ColumnFamilyHandle*> handles_;  // owned until Close
  rocksdb::ColumnFamilyHandle* catalog_ = nullptr;
  rocksdb::ColumnFamilyHandle* documents_ = nullptr;
  rocksdb::ColumnFamilyHandle* expiries_ = nullptr;
  std::unique_ptr<RocksWriter> writer_;
  std::mutex format_mu_;         // guards the next
  std::string format_;           // version of the folder
  mutable std::mutex files_mu_;  // a checkpoint and a purge both steer the deletion of files
};

}  // namespace clamor::retrieval
