#include "model/checked_json.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/str_cat.h"

namespace clamor {
namespace {

using nlohmann::json;

// Deepest nesting of `text`, without recursion. Where `text` is not JSON the count is off, but not before the
// parser stops: up to there both see the same brackets and strings.
int64_t Depth(std::string_view text) {
  int64_t depth = 0, deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

}  // namespace

absl::StatusOr<json> ParseJson(std::string_view text, const std::string& file) {
  if (const int64_t depth = Depth(text); depth > kMaxJsonDepth) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": JSON nested ", depth, " levels deep, limit is ", kMaxJsonDepth));
  }
  try {
    return json::parse(text.begin(), text.end());
  } catch (const json::exception& e) {
    // The rest of the library's message quotes the file: unbounded, and not always UTF-8.
    std::string reason = e.what();
    reason.resize(std::min({reason.size(), reason.find("; last read"), size_t{200}}));
    return absl::InvalidArgumentError(absl::StrCat(file, ": not JSON: ", reason));
  }
}

std::string Quote(const json& value) {
  constexpr size_t kMaxLength = 100;
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, json::error_handler_t::replace);
  if (text.size() > kMaxLength) text.replace(kMaxLength, std::string::npos, "...");
  return text;
}

absl::StatusOr<int32_t> CheckInt(const json& value, const std::string& name, int32_t low, int32_t high) {
  // An unsigned beyond int64 turns negative here, which no range allows.
  if (!value.is_number_integer() || value.get<int64_t>() < low || value.get<int64_t>() > high) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " is ", Quote(value), ", must be a whole number from ", low, " to ", high));
  }
  return value.get<int32_t>();
}

const json* JsonFields::Find(const char* key) const {
  const auto it = object_->find(key);
  return it == object_->end() || it->is_null() ? nullptr : &*it;
}

bool JsonFields::IsNull(const char* key) const {
  const auto it = object_->find(key);
  return it != object_->end() && it->is_null();
}

absl::Status JsonFields::Missing(const char* key) const {
  return absl::InvalidArgumentError(absl::StrCat(Name(key), " is missing"));
}

absl::StatusOr<int32_t> JsonFields::Int(const char* key, int32_t low, int32_t high,
                                        std::optional<int32_t> absent) const {
  const json* value = Find(key);
  if (value != nullptr) return CheckInt(*value, Name(key), low, high);
  if (!absent.has_value()) return Missing(key);
  return *absent;
}

absl::StatusOr<double> JsonFields::Number(const char* key, double low, double high,
                                          std::optional<double> absent) const {
  const json* value = Find(key);
  if (value == nullptr && absent.has_value()) return *absent;
  if (value == nullptr) return Missing(key);
  if (!value->is_number() || value->get<double>() < low || value->get<double>() > high) {
    return absl::InvalidArgumentError(
        absl::StrCat(Name(key), " is ", Quote(*value), ", must be a number from ", low, " to ", high));
  }
  return value->get<double>();
}

absl::StatusOr<bool> JsonFields::Bool(const char* key, bool absent) const {
  const json* value = Find(key);
  if (value == nullptr) return absent;
  if (!value->is_boolean()) {
    return absl::InvalidArgumentError(
        absl::StrCat(Name(key), " is ", Quote(*value), ", must be true or false"));
  }
  return value->get<bool>();
}

absl::StatusOr<JsonFields> JsonFields::Object(const char* key) const {
  static const json& kEmpty = *new json(json::object());
  const json* value = Find(key);
  if (value == nullptr) return JsonFields(kEmpty, absl::StrCat(path_, key, "."));
  if (!value->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(Name(key), " is ", Quote(*value), ", must be an object"));
  }
  return JsonFields(*value, absl::StrCat(path_, key, "."));
}

}  // namespace clamor
