#include "services/session/redis_session_store.h"

#include <span>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "services/log.h"
#include "services/rpc_error.h"
#include "services/session/redis_scripts.h"

namespace clamor {
namespace {

std::string SessionKey(const std::string& tenant, const std::string& name) {
  return absl::StrCat("clamor:s:", tenant, ":", name);
}
std::string TurnsKey(const std::string& tenant, const std::string& name) {
  return absl::StrCat("clamor:t:", tenant, ":", name);
}
std::string NamesKey(const std::string& tenant) { return absl::StrCat("clamor:n:", tenant); }
std::string StreamKey(const std::string& tenant, const std::string& id) {
  return absl::StrCat("clamor:r:", tenant, ":", id);
}

absl::Status Odd(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("--sessions: ", what, " in Redis cannot be read"));
}

// The fields as redis_scripts.h's head() has them.
absl::StatusOr<v1::Session> ReadSession(const std::string& name, std::span<redisReply* const> fields) {
  int64_t numbers[7] = {};
  bool good = fields.size() == 8;
  for (size_t i = 0; good && i < 7; ++i)
    good = absl::SimpleAtoi(RedisReply::TextOf(fields[i + 1]), &numbers[i]) && numbers[i] >= 0;
  if (!good) return Odd(absl::StrCat("session \"", name, "\""));
  v1::Session session;
  session.set_name(name);
  session.set_uid(RedisReply::TextOf(fields[0]));
  session.set_version(static_cast<uint64_t>(numbers[0]));
  session.set_messages(static_cast<uint32_t>(numbers[1]));
  session.set_bytes(static_cast<uint64_t>(numbers[2]));
  *session.mutable_create_time() = ToTimestamp(numbers[3]);
  *session.mutable_update_time() = ToTimestamp(numbers[4]);
  *session.mutable_expire_time() = ToTimestamp(numbers[5]);
  *session.mutable_ttl() = ToDuration(numbers[6]);
  return session;
}

// Of CONFIG GET; empty: nobody knows.
std::string ConfigValue(const absl::StatusOr<RedisReply>& reply) {
  return reply.ok() ? reply->text(1) : std::string();
}

}  // namespace

absl::StatusOr<std::unique_ptr<SessionStore>> RedisSessionStore::Open(const StoreOptions& options) {
  RedisOptions redis{.password_file = options.password_file, .ca_file = options.ca_file};
  CLAMOR_ASSIGN_OR_RETURN(redis.address, RedisAddress::Parse(options.location));
  if (!options.ca_file.empty() && !redis.address.tls) {
    return absl::InvalidArgumentError(
        absl::StrCat("--sessions-ca is given, and ", options.location, " is without TLS: use rediss://"));
  }
  std::unique_ptr<RedisSessionStore> store(new RedisSessionStore(options, redis));
  store->WarnUnlessDurable();
  return store;
}

void RedisSessionStore::WarnUnlessDurable() {
  const auto ask = [this](const char* name) {
    const std::vector<std::string> words = {"CONFIG", "GET", name};
    return pool_.Call(words, RedisPool::Outage::kFail);
  };
  const auto appendonly = ask("appendonly"), appendfsync = ask("appendfsync");
  if (ConfigValue(appendonly) == "yes" && ConfigValue(appendfsync) == "always") return;
  if (!appendonly.ok() || !appendfsync.ok()) {
    const absl::Status& error = appendonly.ok() ? appendfsync.status() : appendonly.status();
    spdlog::warn(
        "event=session_store_unchecked error=\"{}\" it must have appendonly yes and appendfsync always",
        std::string(MessageOf(error)));
    return;
  }
  spdlog::warn(
      "event=session_store_not_durable appendonly={} appendfsync={} turns may be lost although they were "
      "acknowledged, unless it has appendonly yes and appendfsync always",
      ConfigValue(appendonly), ConfigValue(appendfsync));
}

absl::StatusOr<RedisReply> RedisSessionStore::Run(absl::string_view script,
                                                  const std::vector<std::string>& keys,
                                                  const std::vector<std::string>& arguments,
                                                  RedisPool::Outage outage, int* tries) {
  std::vector<std::string> words = {"EVAL", absl::StrCat(redis_scripts::kPrelude, script),
                                    absl::StrCat(keys.size())};
  words.insert(words.end(), keys.begin(), keys.end());
  words.insert(words.end(), arguments.begin(), arguments.end());
  CLAMOR_ASSIGN_OR_RETURN(RedisReply reply, pool_.Call(words, outage, tries));
  if (reply.text(0).empty()) return Odd("a script's answer");
  return reply;
}

absl::StatusOr<v1::Session> RedisSessionStore::Create(const std::string& tenant, const v1::Session& session,
                                                      const v1::Turn& opening) {
  v1::Turn turn = opening;
  turn.set_version(1);
  const std::string& name = session.name();
  CLAMOR_ASSIGN_OR_RETURN(
      const RedisReply reply,
      Run(redis_scripts::kCreate, {SessionKey(tenant, name), TurnsKey(tenant, name), NamesKey(tenant)},
          {tenant, name, session.uid(), absl::StrCat(Milliseconds(session.ttl())),
           absl::StrCat(options_.max_sessions), absl::StrCat(MessagesOf(opening)),
           opening.messages_size() > 0 ? turn.SerializeAsString() : std::string()}));
  if (reply.text(0) == "exists") return SessionExists(name);
  if (reply.text(0) == "full")
    return TooManySessions(static_cast<uint64_t>(reply.number(1)), options_.max_sessions);
  return ReadSession(name, reply.array(1));
}

absl::StatusOr<v1::Session> RedisSessionStore::Find(const std::string& tenant, const std::string& name) {
  CLAMOR_ASSIGN_OR_RETURN(const RedisReply reply, Run(redis_scripts::kFind, {SessionKey(tenant, name)}, {}));
  if (reply.text(0) == "missing") return SessionNotFound(name);
  return ReadSession(name, reply.array(1));
}

absl::StatusOr<Conversation> RedisSessionStore::Read(const std::string& tenant, const std::string& name,
                                                     uint64_t first, uint64_t count) {
  Conversation read;
  if (count == 0) {
    CLAMOR_ASSIGN_OR_RETURN(read.session, Find(tenant, name));
    return read;
  }
  CLAMOR_ASSIGN_OR_RETURN(const RedisReply reply,
                          Run(redis_scripts::kRead, {SessionKey(tenant, name), TurnsKey(tenant, name)},
                              {absl::StrCat(first), absl::StrCat(first + count - 1)}));
  if (reply.text(0) == "missing") return SessionNotFound(name);
  CLAMOR_ASSIGN_OR_RETURN(read.session, ReadSession(name, reply.array(1)));
  for (const redisReply* stored : reply.array(2)) {
    const absl::string_view bytes(stored->str, stored->len);
    const size_t colon = bytes.find(':');
    if (colon == bytes.npos || !read.turns.emplace_back().ParseFromArray(
                                   bytes.data() + colon + 1, static_cast<int>(bytes.size() - colon - 1)))
      return Odd(absl::StrCat("a turn of session \"", name, "\""));
  }
  return read;
}

absl::StatusOr<v1::Session> RedisSessionStore::Append(const std::string& tenant, const v1::Session& base,
                                                      v1::Turn turn) {
  turn.set_version(base.version() + 1);
  const std::string& name = base.name();
  CLAMOR_ASSIGN_OR_RETURN(
      const RedisReply reply,
      Run(redis_scripts::kAppend, {SessionKey(tenant, name), TurnsKey(tenant, name)},
          {tenant, name, base.uid(), absl::StrCat(base.version()), turn.answer().request_id(),
           turn.SerializeAsString(), absl::StrCat(MessagesOf(turn))}));
  if (reply.text(0) == "missing") return SessionNotFound(name);
  if (reply.text(0) == "conflict") return SessionMoved(base, static_cast<uint64_t>(reply.number(1)));
  return ReadSession(name, reply.array(1));
}

absl::Status RedisSessionStore::Delete(const std::string& tenant, const std::string& name) {
  int tries = 0;
  CLAMOR_ASSIGN_OR_RETURN(const RedisReply reply, Run(redis_scripts::kDelete, {SessionKey(tenant, name)},
                                                      {tenant, name}, RedisPool::Outage::kWaitOut, &tries));
  if (reply.text(0) == "missing" && tries == 1) return SessionNotFound(name);  // else an earlier try did it
  return absl::OkStatus();
}

absl::StatusOr<std::vector<v1::Session>> RedisSessionStore::List(const std::string& tenant,
                                                                 const std::string& after, uint32_t count) {
  CLAMOR_ASSIGN_OR_RETURN(const RedisReply reply, Run(redis_scripts::kList, {NamesKey(tenant)},
                                                      {tenant, after, absl::StrCat(count)}));
  std::vector<v1::Session> sessions;
  const std::span<redisReply* const> list = reply.array(1);
  for (size_t i = 0; i + 1 < list.size(); i += 2) {
    const std::span<redisReply* const> fields(list[i + 1]->element, list[i + 1]->elements);
    CLAMOR_ASSIGN_OR_RETURN(sessions.emplace_back(), ReadSession(RedisReply::TextOf(list[i]), fields));
  }
  return sessions;
}

absl::Status RedisSessionStore::PutStream(const v1::StoredStream& stream, absl::Duration ttl) {
  const std::vector<std::string> words = {
      "SET", StreamKey(stream.request().tenant(), stream.request().request_id()), stream.SerializeAsString(),
      "PX", absl::StrCat(absl::ToInt64Milliseconds(ttl))};
  return pool_.Call(words, RedisPool::Outage::kFail).status();
}

absl::StatusOr<v1::StoredStream> RedisSessionStore::FindStream(const std::string& tenant,
                                                               const std::string& id) {
  const std::vector<std::string> words = {"GET", StreamKey(tenant, id)};
  CLAMOR_ASSIGN_OR_RETURN(const RedisReply reply, pool_.Call(words));
  if (reply.is_nil()) return StreamNotFound(id);
  v1::StoredStream stream;
  if (!stream.ParseFromString(reply.text())) return Odd("a stream");
  return stream;
}

absl::Status RedisSessionStore::EraseTenant(const std::string& tenant) {
  while (true) {
    CLAMOR_ASSIGN_OR_RETURN(const RedisReply reply, Run(redis_scripts::kErase, {NamesKey(tenant)}, {tenant}));
    if (reply.number(1) == 0) break;
  }
  std::string cursor = "0";
  do {  // a tenant's characters mean themselves in a pattern
    const std::vector<std::string> scan = {"SCAN", cursor, "MATCH", StreamKey(tenant, "*"), "COUNT", "1000"};
    CLAMOR_ASSIGN_OR_RETURN(const RedisReply reply, pool_.Call(scan));
    cursor = reply.text(0);
    std::vector<std::string> unlink = {"DEL"};
    for (const redisReply* key : reply.array(1)) unlink.push_back(RedisReply::TextOf(key));
    if (unlink.size() > 1) CLAMOR_RETURN_IF_ERROR(pool_.Call(unlink).status());
  } while (cursor != "0");
  const std::vector<std::string> rewrite = {"BGREWRITEAOF"};  // the log of commands has it all still
  if (const absl::Status status = pool_.Call(rewrite).status(); !status.ok())
    spdlog::warn("event=session_store_rewrite error=\"{}\"", std::string(MessageOf(status)));
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> RedisSessionStore::CountSessions() {
  CLAMOR_ASSIGN_OR_RETURN(const RedisReply reply,
                          Run(redis_scripts::kCount, {}, {}, RedisPool::Outage::kFail));
  return static_cast<uint64_t>(reply.number(1));
}

}  // namespace clamor
