// Where sessions, and the streams that clients may resume, are kept: in this gateway, or where several
// gateways see them.
//
// What belongs to a tenant is found under its name alone. A session is addressed by its name and changed only
// as the one that was read: `uid` and `version` must still be the same. Every change may be made twice: who
// does not know whether it was made asks again, and it is made once.
//
// Errors beside those named: RESOURCE_EXHAUSTED "[STORE_FULL]", UNAVAILABLE "[STORE_UNAVAILABLE]", DATA_LOSS.
// Threads: all methods, any thread; they wait for disk or network.
// Tested by tests/services/session/session_store_test.cc, which is the contract of every implementation.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "clamor/v1/session.pb.h"
#include "clamor/v1/stored.pb.h"

namespace clamor {

struct Conversation {
  v1::Session session;
  std::vector<v1::Turn> turns;  // oldest first
};

class SessionStore {
 public:
  virtual ~SessionStore() = default;

  // A session of `name`, `uid` and `ttl`, with `opening` as its first turn if that has messages.
  // ALREADY_EXISTS
  // "[SESSION_EXISTS]" if there is one of another uid.
  virtual absl::StatusOr<v1::Session> Create(const std::string& tenant, const v1::Session& session,
                                             const v1::Turn& opening) = 0;

  // All below: NOT_FOUND "[SESSION_NOT_FOUND]" if there is none, or no longer.
  virtual absl::StatusOr<v1::Session> Find(const std::string& tenant, const std::string& name) = 0;
  // Up to `count` turns, from index `first` on.
  virtual absl::StatusOr<Conversation> Read(const std::string& tenant, const std::string& name,
                                            uint64_t first, uint64_t count) = 0;
  // The session with `turn`, its last; durable on return. ABORTED "[SESSION_VERSION_CONFLICT]" unless `base`
  // is as it was read. The same turn, by its answer's request_id, is added once. Sets `turn`'s version.
  virtual absl::StatusOr<v1::Session> Append(const std::string& tenant, const v1::Session& base,
                                             v1::Turn turn) = 0;
  virtual absl::Status Delete(const std::string& tenant, const std::string& name) = 0;

  // Up to `count` of a tenant's, by name, those after `after`.
  virtual absl::StatusOr<std::vector<v1::Session>> List(const std::string& tenant, const std::string& after,
                                                        uint32_t count) = 0;

  // Keeps a stream under its request's id and tenant; survives this process, but maybe not its machine. Fails
  // at once where others wait.
  virtual absl::Status PutStream(const v1::StoredStream& stream, absl::Duration ttl) = 0;
  // NOT_FOUND "[STREAM_NOT_FOUND]".
  virtual absl::StatusOr<v1::StoredStream> FindStream(const std::string& tenant, const std::string& id) = 0;

  // Removes a tenant's sessions and streams, from disk too. Slow.
  virtual absl::Status EraseTenant(const std::string& tenant) = 0;

  // Of all tenants, about.
  virtual absl::StatusOr<uint64_t> CountSessions() = 0;
};

struct StoreOptions {
  std::string location;                    // a folder, redis://[USER@]HOST[:PORT][/DB] or rediss://...
  std::string password_file;               // of Redis; read at every connect. Empty: none
  std::string ca_file;                     // whose certificates rediss:// trusts; empty: the system's
  uint64_t max_sessions = 10'000;          // of a tenant
  uint64_t max_streams = 100'000;          // of all, in a folder
  uint64_t max_stream_bytes = 1ull << 30;  // likewise
  absl::Duration sweep_every = absl::Seconds(10);  // when what has expired is removed from a folder
  absl::Duration patience = absl::Seconds(3);      // an outage of Redis as long as this is waited out
};

// A folder is created, and locked: it is one process's. A Redis that cannot be reached is no error; one that
// may forget what it acknowledged is warned of. INVALID_ARGUMENT names what is wrong with the options.
absl::StatusOr<std::unique_ptr<SessionStore>> OpenSessionStore(const StoreOptions& options);

// The errors that all implementations have in common.
absl::Status SessionNotFound(const std::string& name);
absl::Status SessionExists(const std::string& name);
absl::Status SessionMoved(const v1::Session& base, uint64_t version);
absl::Status StreamNotFound(const std::string& id);
absl::Status TooManySessions(uint64_t count, uint64_t limit);

// What a turn adds to a session's counts.
uint32_t MessagesOf(const v1::Turn& turn);

// Times as they are kept, in milliseconds since 1970, and durations.
google::protobuf::Timestamp ToTimestamp(int64_t milliseconds);
google::protobuf::Duration ToDuration(int64_t milliseconds);
int64_t Milliseconds(const google::protobuf::Timestamp& time);
int64_t Milliseconds(const google::protobuf::Duration& duration);

}  // namespace clamor
