// One connection to a Redis: commands out, replies in. hiredis writes and reads the protocol; the socket,
// with TLS or without, is ours, for the hiredis of Debian 12 knows no TLS.
//
// Not thread-safe. Tested by tests/services/session/redis_connection_test.cc.
#pragma once

#include <hiredis/hiredis.h>
#include <openssl/ssl.h>

#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "services/session/redis_address.h"

namespace clamor {

// A reply that is no error.
class RedisReply {
 public:
  explicit RedisReply(redisReply* reply) : reply_(reply) {}

  bool is_nil() const { return reply_->type == REDIS_REPLY_NIL; }
  bool is_array() const { return reply_->type == REDIS_REPLY_ARRAY; }
  // Of an array.
  size_t size() const { return is_array() ? reply_->elements : 0; }
  // Element `i` as text: empty if there is none, or if it is neither a string nor a number.
  std::string text(size_t i) const { return TextOf(i < size() ? reply_->element[i] : nullptr); }
  int64_t number(size_t i) const;
  // The element as an array, borrowed; empty if it is none.
  std::span<redisReply* const> array(size_t i) const;
  std::string text() const { return TextOf(reply_.get()); }

  static std::string TextOf(const redisReply* reply);

 private:
  struct Free {
    void operator()(redisReply* reply) const { freeReplyObject(reply); }
  };
  std::unique_ptr<redisReply, Free> reply_;
};

struct RedisOptions {
  RedisAddress address;
  std::string password_file;                  // empty: none
  std::string ca_file;                        // empty: the system's
  absl::Duration timeout = absl::Seconds(1);  // of a connect, and of a command
};

class RedisConnection {
 public:
  // Connected, as the user, in the database. UNAVAILABLE says what went wrong.
  static absl::StatusOr<std::unique_ptr<RedisConnection>> Connect(const RedisOptions& options);
  ~RedisConnection();

  // UNAVAILABLE if no answer came, or one that says "later": the connection is of no more use. Other errors
  // are Redis's own: RESOURCE_EXHAUSTED "[STORE_FULL]" if its memory is full.
  absl::StatusOr<RedisReply> Command(std::span<const std::string> words);

 private:
  explicit RedisConnection(const RedisOptions& options);
  absl::Status Open();
  absl::Status StartTls();
  absl::Status LogIn();
  absl::Status Wait(short events, absl::Time deadline) const;
  absl::Status WaitForTls(int result, absl::Time deadline) const;
  absl::Status Send(absl::string_view bytes, absl::Time deadline);
  absl::StatusOr<size_t> Receive(char* bytes, size_t size, absl::Time deadline);
  absl::Status Broken(absl::string_view why) const;

  const RedisOptions options_;
  int socket_ = -1;
  std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> tls_context_{nullptr, SSL_CTX_free};
  std::unique_ptr<SSL, decltype(&SSL_free)> tls_{nullptr, SSL_free};  // null: none
  std::unique_ptr<redisReader, decltype(&redisReaderFree)> reader_;
};

}  // namespace clamor
