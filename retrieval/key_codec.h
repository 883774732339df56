// Keys and values of the store in RocksDB. README.md shows the layout.
//
// A namespace's keys begin with `tenant 0x00 fingerprint 0x00`: neither part holds a NUL, so a prefix is one
// namespace and a tenant is one range. Numbers in keys are big-endian, so that they sort; in values
// little-endian. Stored bytes are never trusted: whatever does not decode is DATA_LOSS.
//
// Tested by tests/retrieval/key_codec_test.cc.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace clamor::retrieval {

// Token ids are below this; in a segment's text, ids from here on mark the ends of documents.
inline constexpr uint32_t kTokenLimit = 1u << 31;

// Who may see a document. Drafts never cross namespaces.
struct Namespace {
  std::string tenant;       // 1..128 bytes, any but NUL
  std::string fingerprint;  // of the tokenizer: 1..64 hexadecimal digits
  bool operator==(const Namespace&) const = default;
};

// A document as the catalog knows it.
struct CatalogEntry {
  uint64_t number =
      0;  // grows with every append to the store: higher is newer, and no two documents share one
  uint64_t checksum = 0;  // TokenChecksum of the body
  uint32_t tokens = 0;    // >= 1
  uint64_t expires = 0;   // seconds since 1970; 0: never
  bool operator==(const CatalogEntry&) const = default;
};

absl::Status ValidateTenant(std::string_view tenant);
absl::Status ValidateNamespace(const Namespace& ns);
absl::Status ValidateDocumentId(std::string_view id);  // 1..256 bytes

std::string NamespacePrefix(const Namespace& ns);
std::string CatalogKey(std::string_view prefix, std::string_view id);
std::string DocumentKey(std::string_view prefix, uint64_t number);
std::string ExpiryKey(std::string_view prefix, uint64_t expires, std::string_view id);
// The keys of a tenant are those in [first, second).
std::pair<std::string, std::string> TenantRange(std::string_view tenant);

// Splits a stored key into its namespace and what follows the prefix.
absl::StatusOr<std::pair<Namespace, std::string_view>> SplitKey(std::string_view key);
absl::StatusOr<uint64_t> DecodeDocumentNumber(std::string_view key_rest);
absl::StatusOr<std::pair<uint64_t, std::string_view>> DecodeExpiry(std::string_view key_rest);

std::string EncodeEntry(const CatalogEntry& entry);
absl::StatusOr<CatalogEntry> DecodeEntry(std::string_view value);

std::string_view EncodeTokens(std::span<const uint32_t> tokens);  // the same memory, seen as bytes
// DATA_LOSS unless the value is the body that the entry describes.
absl::StatusOr<std::vector<uint32_t>> DecodeTokens(std::string_view value, const CatalogEntry& entry);

}  // namespace clamor::retrieval
