#include "services/security/key_file.h"

#include <openssl/evp.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/status_macros.h"
#include "services/tenant.h"

namespace clamor {
namespace {

using Words = std::vector<absl::string_view>;

// The words from `first` on as name=value, each handed to `take`, which says whether it knows the name.
template <class Take>
absl::Status ReadSettings(const Words& words, size_t first, Take take) {
  for (size_t i = first; i < words.size(); ++i) {
    const std::pair<absl::string_view, absl::string_view> setting =
        absl::StrSplit(words[i], absl::MaxSplits('=', 1));
    if (setting.second.empty() || !take(setting.first, setting.second)) {
      return absl::InvalidArgumentError(absl::StrCat("does not know \"", words[i], "\""));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Grant> ReadGrant(const Words& words) {
  Grant grant{.tenant = std::string(words[2])};
  CLAMOR_RETURN_IF_ERROR(CheckTenant("tenant", grant.tenant));
  CLAMOR_RETURN_IF_ERROR(ReadSettings(words, 3, [&grant](absl::string_view name, absl::string_view value) {
    if (name != "methods") return false;
    if (value == "*") {
      grant.everything = true;
    } else {
      grant.methods = absl::StrSplit(value, ',', absl::SkipEmpty());
    }
    return true;
  }));
  return grant;
}

absl::StatusOr<Sha256> ReadHash(absl::string_view hex) {
  Sha256 hash;
  if (hex.size() != 2 * hash.size() || !std::all_of(hex.begin(), hex.end(), absl::ascii_isxdigit)) {
    return absl::InvalidArgumentError(
        absl::StrCat("has a hash of ", hex.size(), " characters, must be 64 hex digits"));
  }
  const std::string bytes = absl::HexStringToBytes(hex);
  std::copy(bytes.begin(), bytes.end(), hash.begin());
  return hash;
}

absl::StatusOr<Quota> ReadQuota(const Words& words) {
  Quota quota;
  CLAMOR_RETURN_IF_ERROR(ReadSettings(words, 2, [&quota](absl::string_view name, absl::string_view value) {
    double number = 0;
    if (!absl::SimpleAtod(value, &number) || !(number > 0 && number <= 1e15)) return false;
    if (name == "tokens-per-second") {
      quota.tokens_per_second = number;
    } else if (name == "burst-tokens") {
      quota.burst_tokens = number;
    } else if (name == "requests" && number <= 1e9 && number == std::floor(number)) {
      quota.requests = static_cast<int32_t>(number);
    } else {
      return false;
    }
    return true;
  }));
  return quota;
}

absl::Status ReadLine(const Words& words, KeyFile& file) {
  const bool is_grant = words[0] == "key" || words[0] == "certificate";
  if ((!is_grant && words[0] != "tenant") || words.size() < (is_grant ? 3u : 2u)) {
    return absl::InvalidArgumentError(
        "must be `key HASH TENANT`, `certificate NAME TENANT` or `tenant TENANT`");
  }
  if (words[0] == "tenant") {
    if (words[1] != "*") CLAMOR_RETURN_IF_ERROR(CheckTenant("tenant", words[1]));
    CLAMOR_ASSIGN_OR_RETURN(const Quota quota, ReadQuota(words));
    if (file.quotas.emplace(words[1], quota).second) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("is the second for tenant ", words[1]));
  }
  CLAMOR_ASSIGN_OR_RETURN(Grant grant, ReadGrant(words));
  if (words[0] == "certificate") {
    if (file.certificates.emplace(words[1], std::move(grant)).second) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("is the second for certificate ", words[1]));
  }
  CLAMOR_ASSIGN_OR_RETURN(const Sha256 hash, ReadHash(words[1]));
  if (std::any_of(file.keys.begin(), file.keys.end(), [&](const auto& key) { return key.hash == hash; })) {
    return absl::InvalidArgumentError("has the hash of a line before");
  }
  file.keys.push_back({hash, std::move(grant)});
  return absl::OkStatus();
}

}  // namespace

Sha256 Sha256Of(absl::string_view bytes) {
  Sha256 hash;
  unsigned int size = 0;
  EVP_Digest(bytes.data(), bytes.size(), hash.data(), &size, EVP_sha256(), nullptr);
  return hash;
}

absl::StatusOr<KeyFile> ParseKeyFile(absl::string_view text) {
  KeyFile file;
  size_t number = 0, used = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = line.substr(0, line.find('#'));
    const Words words = absl::StrSplit(line, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
    if (words.empty()) continue;
    absl::Status status = ReadLine(words, file);
    if (++used > KeyFile::kMaxLines) {
      status = absl::InvalidArgumentError(absl::StrCat("is one over the limit of ", KeyFile::kMaxLines));
    }
    if (!status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("line ", number, " ", status.message()));
    }
  }
  return file;
}

}  // namespace clamor
