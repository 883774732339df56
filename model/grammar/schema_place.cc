#include "model/grammar/schema_place.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace clamor {
namespace {

constexpr size_t kMaxShownKey = 64;
constexpr size_t kMaxShownSteps = 32;

// The first bytes of `key`, whole characters only.
std::string Cut(std::string_view key) {
  if (key.size() <= kMaxShownKey) return std::string(key);
  size_t end = kMaxShownKey;
  while (end > 0 && (static_cast<unsigned char>(key[end]) & 0xC0) == 0x80) --end;
  return std::string(key.substr(0, end)) + "...";
}

}  // namespace

std::string SchemaPlace::Pointer() const {
  std::vector<std::string_view> keys;
  for (const SchemaPlace* place = this; place->parent != nullptr; place = place->parent) {
    keys.push_back(place->key);
  }
  std::string pointer = "#";
  for (size_t i = keys.size(); i > 0 && keys.size() - i < kMaxShownSteps; --i) {
    absl::StrAppend(&pointer, "/", absl::StrReplaceAll(Cut(keys[i - 1]), {{"~", "~0"}, {"/", "~1"}}));
  }
  if (keys.size() > kMaxShownSteps) absl::StrAppend(&pointer, "/...");
  return pointer;
}

absl::Status MalformedSchema(const SchemaPlace& place, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("schema at ", place.Pointer(), ": ", what));
}

absl::Status UnsupportedSchema(const SchemaPlace& place, const std::string& what) {
  return absl::InvalidArgumentError(
      absl::StrCat("[UNSUPPORTED_SCHEMA] schema at ", place.Pointer(), ": ", what));
}

}  // namespace clamor
