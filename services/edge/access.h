// Which names a server may be called by, and which pages may call it: what keeps a page that somebody happens
// to look at from talking to a server on their machine (DNS rebinding, cross-site requests).
//
// Immutable; any thread. Tested by tests/services/edge/access_test.cc.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace clamor::edge {

class Access {
 public:
  // `hosts`: names without ports that the Host header may have, "*" for all; none: those of loopback if
  // `listens_on_loopback`, else all. `origins`: such as "https://example.org", "*" for all; a page that this
  // server itself sent may always ask.
  Access(const std::vector<std::string>& hosts, const std::vector<std::string>& origins,
         bool listens_on_loopback);

  // "[HOST_NOT_ALLOWED]" or "[ORIGIN_NOT_ALLOWED]" with the value and the flag. `origin` is empty if there is
  // no such header.
  absl::Status Check(absl::string_view host, absl::string_view origin) const;

  // Whether a page of that origin, which Check has let in, is another site's and must be told that it may
  // read the answer.
  static bool IsForeign(absl::string_view host, absl::string_view origin);

 private:
  std::set<std::string, std::less<>> hosts_;  // lower case; empty: all
  std::set<std::string, std::less<>> origins_;
  bool any_origin_ = false;
};

}  // namespace clamor::edge
