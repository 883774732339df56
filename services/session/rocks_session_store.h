// SessionStore in a folder of this machine: a RocksDB of these column families.
//
//   sessions   tenant 0 name            -> Session
//   turns      tenant 0 name 0 version  -> Turn
//   streams    tenant 0 id              -> time of expiry, StoredStream
//   expiry     time kind tenant 0 name  -> bytes kept; kind is 's' of a session, 'r' of a stream
//   default    "format"                 -> "1"
//
// Numbers in keys and times are 8 bytes, big-endian, so that they sort. What changes a session is one write
// batch, synced before it returns; writes of several threads share a sync. A thread removes what has expired;
// until it comes by, expired is as good as gone.
//
// Threads: as SessionStore. Tested by tests/services/session/session_store_test.cc and rocks_store_test.cc.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "services/session/session_store.h"

namespace rocksdb {
class ColumnFamilyHandle;
class DB;
class WriteBatch;
}  // namespace rocksdb

namespace clamor::retrieval {
class RocksWriter;
}

namespace clamor {

class RocksSessionStore final : public SessionStore {
 public:
  // Creates the folder (its parent must exist). FAILED_PRECONDITION names another format version; INTERNAL
  // says so if another process has the folder.
  static absl::StatusOr<std::unique_ptr<SessionStore>> Open(const StoreOptions& options);
  ~RocksSessionStore() override;

  absl::StatusOr<v1::Session> Create(const std::string& tenant, const v1::Session& session,
                                     const v1::Turn& opening) override;
  absl::StatusOr<v1::Session> Find(const std::string& tenant, const std::string& name) override;
  absl::StatusOr<Conversation> Read(const std::string& tenant, const std::string& name, uint64_t first,
                                    uint64_t count) override;
  absl::StatusOr<v1::Session> Append(const std::string& tenant, const v1::Session& base,
                                     v1::Turn turn) override;
  absl::Status Delete(const std::string& tenant, const std::string& name) override;
  absl::StatusOr<std::vector<v1::Session>> List(const std::string& tenant, const std::string& after,
                                                uint32_t count) override;
  absl::Status PutStream(const v1::StoredStream& stream, absl::Duration ttl) override;
  absl::StatusOr<v1::StoredStream> FindStream(const std::string& tenant, const std::string& id) override;
  absl::Status EraseTenant(const std::string& tenant) override;
  absl::StatusOr<uint64_t> CountSessions() override;

 private:
  explicit RocksSessionStore(const StoreOptions& options);

  struct Expiry {
    int64_t time;  // milliseconds since 1970
    char kind;
    std::string key;  // tenant 0 name
    uint64_t bytes;
  };

  absl::Status OpenFamilies();
  absl::Status CheckFormat();
  absl::Status CountAll();
  absl::StatusOr<std::optional<v1::Session>> FindStored(const std::string& key) const;
  // The stored turns [first, first + count), as far as there are any.
  absl::StatusOr<std::vector<v1::Turn>> ReadTurns(const std::string& key, uint64_t first,
                                                  uint64_t count) const;
  absl::Status PutSession(rocksdb::WriteBatch& batch, const std::string& key,
                          const v1::Session& session) const;
  absl::Status DropSession(rocksdb::WriteBatch& batch, const std::string& key,
                           const v1::Session& session) const;
  absl::Status Write(rocksdb::WriteBatch& batch, bool sync) const;
  absl::Status ForEachExpiry(int64_t until, const std::function<absl::Status(const Expiry&)>& visit) const;
  absl::Status RemoveExpired(const Expiry& expired);
  absl::Status Purge(const std::string& tenant);
  void Sweep();

  absl::Status Reserve(const std::string& tenant);
  void Forget(absl::string_view tenant, uint64_t sessions);
  absl::Mutex& LockOf(const std::string& key);

  const StoreOptions options_;
  std::unique_ptr<rocksdb::DB> db_;                    // constant since Open, as are the handles
  std::vector<rocksdb::ColumnFamilyHandle*> handles_;  // owned until Close
  rocksdb::ColumnFamilyHandle* sessions_ = nullptr;
  rocksdb::ColumnFamilyHandle* turns_ = nullptr;
  rocksdb::ColumnFamilyHandle* streams_ = nullptr;
  rocksdb::ColumnFamilyHandle* expiry_ = nullptr;

  std::array<absl::Mutex, 64> locks_;  // of the sessions, by hash of their keys: held while one is changed
  absl::Mutex purging_;                // never taken with another held

  const std::unique_ptr<retrieval::RocksWriter> writer_;
  absl::Mutex mu_;  // never held while something waits
  std::map<std::string, uint64_t, std::less<>> counts_ ABSL_GUARDED_BY(mu_);  // sessions of each tenant
  uint64_t sessions_kept_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t streams_kept_ ABSL_GUARDED_BY(mu_) = 0, stream_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;

  std::thread sweeper_;  // last: runs Sweep over all of the above
};

}  // namespace clamor
