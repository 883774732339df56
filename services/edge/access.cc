#include "services/edge/access.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "services/rpc_error.h"

namespace clamor::edge {
namespace {

// "localhost:7702" and "[::1]:7702" without the port.
std::string NameOf(absl::string_view host) {
  const size_t colon = host.rfind(':');
  const size_t bracket = host.rfind(']');
  if (colon != host.npos && (bracket == host.npos || bracket < colon)) host = host.substr(0, colon);
  return absl::AsciiStrToLower(host);
}

// The part of an origin that a Host header has.
absl::string_view AuthorityOf(absl::string_view origin) {
  const size_t scheme = origin.find("://");
  return scheme == origin.npos ? absl::string_view() : origin.substr(scheme + 3);
}

std::string Shown(absl::string_view header) {
  constexpr size_t kShown = 100;
  return absl::StrCat("\"", absl::CHexEscape(header.substr(0, kShown)), "\"");
}

}  // namespace

Access::Access(const std::vector<std::string>& hosts, const std::vector<std::string>& origins,
               bool listens_on_loopback) {
  if (hosts.empty() && listens_on_loopback) hosts_ = {"localhost", "127.0.0.1", "[::1]"};
  for (const std::string& host : hosts) hosts_.insert(absl::AsciiStrToLower(host));
  if (hosts_.contains("*")) hosts_.clear();
  for (const std::string& origin : origins) {
    origins_.insert(absl::AsciiStrToLower(absl::StripSuffix(origin, "/")));
    any_origin_ |= origin == "*";
  }
}

absl::Status Access::Check(absl::string_view host, absl::string_view origin) const {
  if (!hosts_.empty() && !hosts_.contains(NameOf(host))) {
    return Refusal("HOST_NOT_ALLOWED",
                   absl::StrCat("the host ", Shown(host), " is none of --api-hosts of this server"));
  }
  if (origin.empty() || any_origin_ || !IsForeign(host, origin) ||
      origins_.contains(absl::AsciiStrToLower(origin))) {
    return absl::OkStatus();
  }
  return Refusal("ORIGIN_NOT_ALLOWED",
                 absl::StrCat("the origin ", Shown(origin), " is none of --api-origins of this server"));
}

bool Access::IsForeign(absl::string_view host, absl::string_view origin) {
  return !origin.empty() && !absl::EqualsIgnoreCase(AuthorityOf(origin), host);
}

}  // namespace clamor::edge
