// The file of --api-keys: who may call, as which tenant, and how much a tenant may ask.
//
//     key SHA256-OF-THE-KEY TENANT [methods=M,...]     a caller with this API key
//     certificate NAME TENANT [methods=M,...]          a caller whose certificate has this DNS name, URI or
//     CN tenant TENANT|* [tokens-per-second=N] [burst-tokens=N] [requests=N]
//
// One a line, `#` begins a comment. Keys are not in the file, only their hashes: they are long and random, so
// that a plain SHA-256 gives nothing away. Without `methods` a caller may do what clients do; `methods=*` is
// everything, the operators' calls too. `tenant *` is for tenants without a line of their own.
// Tested by tests/services/security/authenticator_test.cc.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace clamor {

using Sha256 = std::array<uint8_t, 32>;
Sha256 Sha256Of(absl::string_view bytes);

// What a tenant may ask; 0: as much as it likes.
struct Quota {
  double tokens_per_second = 0;  // of prompts and answers, on average
  double burst_tokens = 0;       // that may be asked at once after a rest; 0: ten seconds' worth
  int32_t requests = 0;          // under way and waiting, together
  friend bool operator==(const Quota&, const Quota&) = default;
};

// Who a caller is, and what it may call.
struct Grant {
  std::string tenant;
  bool everything = false;           // operators' methods too
  std::vector<std::string> methods;  // names of RPCs; empty: all but the operators'
};

struct KeyFile {
  struct Key {
    Sha256 hash;
    Grant grant;
  };
  static constexpr size_t kMaxLines = 4096;  // a call looks at every key

  std::vector<Key> keys;
  std::map<std::string, Grant, std::less<>> certificates;  // by name
  std::map<std::string, Quota, std::less<>> quotas;        // by tenant; "*": of the others
};

// INVALID_ARGUMENT names the line.
absl::StatusOr<KeyFile> ParseKeyFile(absl::string_view text);

}  // namespace clamor
