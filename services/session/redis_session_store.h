// SessionStore in a Redis that several gateways share: redis_scripts.h has the layout and every change.
//
// A change is durable when it is acknowledged if that Redis has `appendonly yes` and `appendfsync always`.
// Threads: as SessionStore. Tested by tests/services/session/session_store_test.cc.
#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "services/session/redis_pool.h"
#include "services/session/session_store.h"

namespace clamor {

class RedisSessionStore final : public SessionStore {
 public:
  // As OpenSessionStore.
  static absl::StatusOr<std::unique_ptr<SessionStore>> Open(const StoreOptions& options);

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
  RedisSessionStore(const StoreOptions& options, const RedisOptions& redis)
      : options_(options), pool_(redis, options.patience) {}

  void WarnUnlessDurable();
  // A reply of a script, an array that begins with a string.
  absl::StatusOr<RedisReply> Run(absl::string_view script, const std::vector<std::string>& keys,
                                 const std::vector<std::string>& arguments,
                                 RedisPool::Outage outage = RedisPool::Outage::kWaitOut,
                                 int* tries = nullptr);

  const StoreOptions options_;
  RedisPool pool_;
};

}  // namespace clamor
