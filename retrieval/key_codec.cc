#include "retrieval/key_codec.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "retrieval/checksum.h"

namespace clamor::retrieval {
namespace {

static_assert(std::endian::native == std::endian::little,
              "values are memory images of little-endian numbers");

constexpr size_t kMaxTenantBytes = 128, kMaxFingerprintBytes = 64, kMaxIdBytes = 256;
constexpr size_t kEntryBytes = 20, kExpiringEntryBytes = 28;

absl::Status CheckLength(std::string_view what, std::string_view value, size_t limit) {
  if (!value.empty() && value.size() <= limit) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(std::string(what), " has ", value.size(), " bytes, must have 1 to ", limit));
}

void AppendBigEndian(uint64_t number, std::string& key) {
  for (int shift = 56; shift >= 0; shift -= 8) key.push_back(static_cast<char>(number >> shift));
}

// REQUIRES: 8 bytes.
uint64_t BigEndian(std::string_view bytes) {
  uint64_t number = 0;
  for (const char byte : bytes) number = number << 8 | static_cast<uint8_t>(byte);
  return number;
}

}  // namespace

absl::Status ValidateTenant(std::string_view tenant) {
  CLAMOR_RETURN_IF_ERROR(CheckLength("tenant", tenant, kMaxTenantBytes));
  if (const size_t nul = tenant.find('\0'); nul != tenant.npos) {
    return absl::InvalidArgumentError(absl::StrCat("tenant has a NUL at byte ", nul));
  }
  return absl::OkStatus();
}

absl::Status ValidateNamespace(const Namespace& ns) {
  CLAMOR_RETURN_IF_ERROR(ValidateTenant(ns.tenant));
  CLAMOR_RETURN_IF_ERROR(CheckLength("fingerprint", ns.fingerprint, kMaxFingerprintBytes));
  if (!std::ranges::all_of(ns.fingerprint, absl::ascii_isxdigit)) {
    return absl::InvalidArgumentError(
        absl::StrCat("fingerprint \"", absl::CHexEscape(ns.fingerprint), "\" is not hexadecimal"));
  }
  return absl::OkStatus();
}

absl::Status ValidateDocumentId(std::string_view id) { return CheckLength("document id", id, kMaxIdBytes); }

std::string NamespacePrefix(const Namespace& ns) {
  std::string prefix = ns.tenant;
  prefix.push_back('\0');
  prefix.append(ns.fingerprint).push_back('\0');
  return prefix;
}

std::string CatalogKey(std::string_view prefix, std::string_view id) {
  return std::string(prefix).append(id);
}

std::string DocumentKey(std::string_view prefix, uint64_t number) {
  std::string key(prefix);
  AppendBigEndian(number, key);
  return key;
}

std::string ExpiryKey(std::string_view prefix, uint64_t expires, std::string_view id) {
  std::string key(prefix);
  AppendBigEndian(expires, key);
  return key.append(id);
}

std::pair<std::string, std::string> TenantRange(std::string_view tenant) {
  std::pair<std::string, std::string> range{tenant, tenant};
  range.first.push_back('\0');
  range.second.push_back('\1');
  return range;
}

absl::StatusOr<std::pair<Namespace, std::string_view>> SplitKey(std::string_view key) {
  const size_t tenant_end = key.find('\0');
  const size_t end = tenant_end == key.npos ? key.npos : key.find('\0', tenant_end + 1);
  if (end == key.npos) {
    return absl::DataLossError(absl::StrCat("stored key of ", key.size(), " bytes has no namespace"));
  }
  Namespace ns{std::string(key.substr(0, tenant_end)),
               std::string(key.substr(tenant_end + 1, end - tenant_end - 1))};
  if (absl::Status valid = ValidateNamespace(ns); !valid.ok()) {
    return absl::DataLossError(absl::StrCat("stored key: ", valid.message()));
  }
  return std::pair(std::move(ns), key.substr(end + 1));
}

absl::StatusOr<uint64_t> DecodeDocumentNumber(std::string_view key_rest) {
  if (key_rest.size() != 8) {
    return absl::DataLossError(absl::StrCat("stored document number has ", key_rest.size(), " bytes, not 8"));
  }
  return BigEndian(key_rest);
}

absl::StatusOr<std::pair<uint64_t, std::string_view>> DecodeExpiry(std::string_view key_rest) {
  if (key_rest.size() <= 8) {
    return absl::DataLossError(
        absl::StrCat("stored expiry has ", key_rest.size(), " bytes, must have over 8"));
  }
  return std::pair(BigEndian(key_rest.substr(0, 8)), key_rest.substr(8));
}

std::string EncodeEntry(const CatalogEntry& entry) {
  std::string value(entry.expires == 0 ? kEntryBytes : kExpiringEntryBytes, '\0');
  std::memcpy(value.data(), &entry.number, 8);
  std::memcpy(value.data() + 8, &entry.checksum, 8);
  std::memcpy(value.data() + 16, &entry.tokens, 4);
  if (entry.expires != 0) std::memcpy(value.data() + 20, &entry.expires, 8);
  return value;
}

absl::StatusOr<CatalogEntry> DecodeEntry(std::string_view value) {
  if (value.size() != kEntryBytes && value.size() != kExpiringEntryBytes) {
    return absl::DataLossError(absl::StrCat("stored catalog entry has ", value.size(), " bytes, not ",
                                            kEntryBytes, " or ", kExpiringEntryBytes));
  }
  CatalogEntry entry;
  std::memcpy(&entry.number, value.data(), 8);
  std::memcpy(&entry.checksum, value.data() + 8, 8);
  std::memcpy(&entry.tokens, value.data() + 16, 4);
  if (value.size() == kExpiringEntryBytes) std::memcpy(&entry.expires, value.data() + 20, 8);
  if (entry.tokens == 0) return absl::DataLossError("stored catalog entry has 0 tokens");
  return entry;
}

std::string_view EncodeTokens(std::span<const uint32_t> tokens) {
  return {reinterpret_cast<const char*>(tokens.data()), tokens.size_bytes()};
}

absl::StatusOr<std::vector<uint32_t>> DecodeTokens(std::string_view value, const CatalogEntry& entry) {
  if (value.size() != uint64_t{entry.tokens} * sizeof(uint32_t)) {
    return absl::DataLossError(absl::StrCat("stored document ", entry.number, " has ", value.size(),
                                            " bytes, its catalog entry says ", entry.tokens, " tokens of 4"));
  }
  std::vector<uint32_t> tokens(entry.tokens);
  std::ranges::copy(value, reinterpret_cast<char*>(tokens.data()));
  if (const uint64_t sum = TokenChecksum(tokens); sum != entry.checksum) {
    return absl::DataLossError(absl::StrCat("stored document ", entry.number, " has checksum ", sum,
                                            ", its catalog entry says ", entry.checksum));
  }
  const auto bad = std::ranges::find_if(tokens, [](uint32_t token) { return token >= kTokenLimit; });
  if (bad != tokens.end()) {
    return absl::DataLossError(absl::StrCat("stored document ", entry.number, " has token id ", *bad, " at ",
                                            bad - tokens.begin(), ", limit is ", kTokenLimit));
  }
  return tokens;
}

}  // namespace clamor::retrieval
