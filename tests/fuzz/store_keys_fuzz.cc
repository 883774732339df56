// Keys and values of any bytes decode, and come back the same when they are encoded again, or are DATA_LOSS.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "retrieval/key_codec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace clamor::retrieval;  // NOLINT
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  auto check = [](const absl::Status& status) {
    if (!status.ok() && !absl::IsDataLoss(status)) std::abort();
  };
  const auto key = SplitKey(bytes);
  check(key.status());
  if (key.ok()) {
    const std::string prefix = NamespacePrefix(key->first);
    if (CatalogKey(prefix, key->second) != bytes) std::abort();
    const auto number = DecodeDocumentNumber(key->second);
    check(number.status());
    if (number.ok() && DocumentKey(prefix, *number) != bytes) std::abort();
    const auto expiry = DecodeExpiry(key->second);
    check(expiry.status());
    if (expiry.ok() && ExpiryKey(prefix, expiry->first, expiry->second) != bytes) std::abort();
  }
  const auto entry = DecodeEntry(bytes);
  check(entry.status());
  // An expiry of 0 that is written out is read as none.
  if (entry.ok() && EncodeEntry(*entry) != bytes.substr(0, entry->expires == 0 ? 20 : 28)) std::abort();
  check(DecodeTokens(bytes, {.tokens = static_cast<uint32_t>(size / 4)}).status());
  return 0;
}
