// Keys, values and errors of a store in a folder; rocks_session_store.h has the layout.
// Tested by tests/services/session/session_store_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "rocksdb/options.h"
#include "rocksdb/slice.h"
#include "rocksdb/status.h"
#include "services/faults/faults.h"
#include "services/rpc_error.h"

namespace clamor::rocks {

inline constexpr char kFormatKey[] = "format", kFormatVersion[] = "1";
inline constexpr char kOfSession = 's', kOfStream = 'r';

inline absl::Status ToStatus(const rocksdb::Status& status, absl::string_view doing) {
  if (status.ok()) return absl::OkStatus();
  const std::string message = absl::StrCat("--sessions: ", doing, ": ", status.ToString());
  if (status.IsNoSpace()) return Refusal("STORE_FULL", message);
  if (status.IsCorruption()) return absl::DataLossError(message);
  return absl::InternalError(message);
}

inline rocksdb::Slice ToSlice(absl::string_view bytes) { return {bytes.data(), bytes.size()}; }
inline absl::string_view ToView(const rocksdb::Slice& slice) { return {slice.data(), slice.size()}; }

inline int64_t Now() { return absl::ToUnixMillis(faults::Now()); }

inline std::string Number(uint64_t value) {
  std::string bytes(8, 0);
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(value >> (56 - 8 * i));
  return bytes;
}

// REQUIRES: 8 bytes at least.
inline uint64_t ReadNumber(absl::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < 8; ++i) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

inline std::string KeyOf(absl::string_view tenant, absl::string_view name) {
  return absl::StrCat(tenant, absl::string_view("\0", 1), name);
}
inline absl::string_view TenantOfKey(absl::string_view key) { return key.substr(0, key.find('\0')); }
// A tenant's keys are those in [KeyOf(tenant, ""), TenantEnd(tenant)).
inline std::string TenantEnd(const std::string& tenant) { return absl::StrCat(tenant, "\1"); }
inline std::string TurnKey(const std::string& key, uint64_t version) {
  return absl::StrCat(key, absl::string_view("\0", 1), Number(version));
}
inline std::string ExpiryKey(int64_t time, char kind, absl::string_view key) {
  return absl::StrCat(Number(static_cast<uint64_t>(time)), absl::string_view(&kind, 1), key);
}

inline rocksdb::WriteOptions Durably() {
  rocksdb::WriteOptions options;
  options.sync = true;
  return options;
}

}  // namespace clamor::rocks
