#include "services/session/session_store.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/rpc_error.h"
#include "services/session/redis_session_store.h"
#include "services/session/rocks_session_store.h"

namespace clamor {

absl::StatusOr<std::unique_ptr<SessionStore>> OpenSessionStore(const StoreOptions& options) {
  if (absl::StrContains(options.location, "://")) return RedisSessionStore::Open(options);
  if (!options.password_file.empty() || !options.ca_file.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--sessions is the folder ", options.location,
                                                   ": a password file and a CA file are of redis://"));
  }
  return RocksSessionStore::Open(options);
}

absl::Status SessionNotFound(const std::string& name) {
  return Refusal("SESSION_NOT_FOUND", absl::StrCat("there is no session \"", name, "\""));
}

absl::Status SessionExists(const std::string& name) {
  return Refusal("SESSION_EXISTS", absl::StrCat("there is a session \"", name, "\" already"));
}

absl::Status SessionMoved(const v1::Session& base, uint64_t version) {
  return Refusal("SESSION_VERSION_CONFLICT", absl::StrCat("session \"", base.name(), "\" has version ",
                                                          version, ", expected ", base.version()));
}

absl::Status StreamNotFound(const std::string& id) {
  return Refusal("STREAM_NOT_FOUND", absl::StrCat("there is no stream \"", id, "\", or no longer"));
}

absl::Status TooManySessions(uint64_t count, uint64_t limit) {
  return Refusal("STORE_FULL",
                 absl::StrCat("the tenant has ", count, " sessions, limit ", limit, ": delete some"));
}

uint32_t MessagesOf(const v1::Turn& turn) {
  return static_cast<uint32_t>(turn.messages_size()) + (turn.has_answer() ? 1 : 0);
}

google::protobuf::Timestamp ToTimestamp(int64_t milliseconds) {
  google::protobuf::Timestamp time;
  time.set_seconds(milliseconds / 1000);
  time.set_nanos(static_cast<int32_t>(milliseconds % 1000) * 1'000'000);
  return time;
}

google::protobuf::Duration ToDuration(int64_t milliseconds) {
  google::protobuf::Duration duration;
  duration.set_seconds(milliseconds / 1000);
  duration.set_nanos(static_cast<int32_t>(milliseconds % 1000) * 1'000'000);
  return duration;
}

int64_t Milliseconds(const google::protobuf::Timestamp& time) {
  return time.seconds() * 1000 + time.nanos() / 1'000'000;
}

int64_t Milliseconds(const google::protobuf::Duration& duration) {
  return duration.seconds() * 1000 + duration.nanos() / 1'000'000;
}

}  // namespace clamor
