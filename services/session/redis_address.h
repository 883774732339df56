// Where a Redis is: redis://[USER@]HOST[:PORT][/DB], rediss:// with TLS.
// Tested by tests/services/session/redis_address_test.cc.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace clamor {

struct RedisAddress {
  std::string host;  // a name or an address
  std::string port = "6379";
  std::string user;  // empty: the default one
  int database = 0;
  bool tls = false;

  // INVALID_ARGUMENT says what is wrong; a password is refused, for it would be seen in the list of
  // processes.
  static absl::StatusOr<RedisAddress> Parse(const std::string& url);
  std::string ToString() const;  // for messages
};

}  // namespace clamor
