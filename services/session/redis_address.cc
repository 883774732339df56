#include "services/session/redis_address.h"

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace clamor {
namespace {

absl::Status Invalid(absl::string_view url, absl::string_view problem) {
  return absl::InvalidArgumentError(
      absl::StrCat("--sessions is \"", url, "\": ", problem, ", must be redis[s]://[USER@]HOST[:PORT][/DB]"));
}

}  // namespace

absl::StatusOr<RedisAddress> RedisAddress::Parse(const std::string& url) {
  RedisAddress address;
  absl::string_view rest = url;
  address.tls = absl::ConsumePrefix(&rest, "rediss://");
  if (!address.tls && !absl::ConsumePrefix(&rest, "redis://")) return Invalid(url, "unknown scheme");
  if (const size_t at = rest.rfind('@'); at != rest.npos) {
    address.user = std::string(rest.substr(0, at));
    rest.remove_prefix(at + 1);
    // The URL is not repeated: what follows the colon is secret.
    if (absl::StrContains(address.user, ':'))
      return absl::InvalidArgumentError("--sessions has a password: put it into --sessions-password-file");
  }
  if (const size_t slash = rest.find('/'); slash != rest.npos) {
    const absl::string_view database = rest.substr(slash + 1);
    if (!database.empty() && (!absl::SimpleAtoi(database, &address.database) || address.database < 0))
      return Invalid(url, absl::StrCat("\"", database, "\" is no database"));
    rest = rest.substr(0, slash);
  }
  const size_t bracket = rest.rfind(']'), colon = rest.rfind(':');
  if (colon != rest.npos && (bracket == rest.npos || colon > bracket)) {
    int port = 0;
    address.port = std::string(rest.substr(colon + 1));
    if (!absl::SimpleAtoi(address.port, &port) || port < 1 || port > 65535)
      return Invalid(url, absl::StrCat("\"", address.port, "\" is no port"));
    rest = rest.substr(0, colon);
  }
  if (absl::ConsumePrefix(&rest, "[") && !absl::ConsumeSuffix(&rest, "]"))
    return Invalid(url, "a bracket is open");
  if (rest.empty()) return Invalid(url, "there is no host");
  address.host = std::string(rest);
  return address;
}

std::string RedisAddress::ToString() const {
  return absl::StrCat(tls ? "rediss://" : "redis://", host, ":", port, "/", database);
}

}  // namespace clamor
