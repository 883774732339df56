// Values as text: as Python's str() and repr(), and as JSON. Results over kMaxStringBytes are
// RESOURCE_EXHAUSTED.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/tokenizer/jinja/value.h"

namespace clamor::jinja {

// What {{ value }} puts out.
absl::Status AppendStr(const Value& value, MarkedText* out);
absl::StatusOr<MarkedText> ToStr(const Value& value);

struct JsonOptions {
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::optional<std::string> indent;  // one level of it; lines are broken if set
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
absl::StatusOr<MarkedText> ToJson(const Value& value, const JsonOptions& options);

// "str", "int", "NoneType": what Python calls the type.
const char* TypeName(const Value& value);

}  // namespace clamor::jinja
