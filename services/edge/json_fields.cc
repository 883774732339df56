#include "services/edge/json_fields.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "model/tokenizer/json_field.h"
#include "services/rpc_error.h"

namespace clamor::edge {

absl::Status WrongType(const std::string& path, const nlohmann::json& value, const std::string& expected) {
  return InvalidField(path, absl::StrCat("is ", Shown(value), ", must be ", expected));
}

const nlohmann::json* JsonFields::Take(const char* key) {
  taken_.insert(key);
  const auto it = object_.find(key);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

absl::Status JsonFields::TakeBool(const char* key, bool& value) {
  const nlohmann::json* field = Take(key);
  if (field == nullptr) return absl::OkStatus();
  if (!field->is_boolean()) return WrongType(PathOf(key), *field, "true or false");
  value = field->get<bool>();
  return absl::OkStatus();
}

absl::Status JsonFields::TakeString(const char* key, std::optional<std::string>& value) {
  const nlohmann::json* field = Take(key);
  if (field == nullptr) return absl::OkStatus();
  if (!field->is_string()) return WrongType(PathOf(key), *field, "a string");
  value = field->get<std::string>();
  return absl::OkStatus();
}

absl::Status JsonFields::TakeNumber(const char* key, std::optional<double>& value) {
  const nlohmann::json* field = Take(key);
  if (field == nullptr) return absl::OkStatus();
  if (!field->is_number()) return WrongType(PathOf(key), *field, "a number");
  value = field->get<double>();
  return absl::OkStatus();
}

absl::Status JsonFields::TakeInteger(const char* key, int64_t low, int64_t high,
                                     std::optional<int64_t>& value) {
  const nlohmann::json* field = Take(key);
  if (field == nullptr) return absl::OkStatus();
  if (!IsIntegerIn(*field, low, high)) {
    return WrongType(PathOf(key), *field, absl::StrCat("a whole number from ", low, " to ", high));
  }
  value = field->get<int64_t>();
  return absl::OkStatus();
}

absl::Status JsonFields::TakeNote(const char* key) {
  constexpr size_t kMaxNotes = 16;
  const nlohmann::json* field = Take(key);
  if (field == nullptr || field->is_primitive()) return absl::OkStatus();
  const bool small = field->is_object() && field->size() <= kMaxNotes &&
                     std::all_of(field->begin(), field->end(),
                                 [](const nlohmann::json& note) { return note.is_primitive(); });
  return small ? absl::OkStatus()
               : WrongType(PathOf(key), *field, absl::StrCat("a string, or up to ", kMaxNotes, " by name"));
}

absl::Status JsonFields::Rest() const {
  for (const auto& [key, value] : object_.items()) {
    if (value.is_null() || taken_.contains(key)) continue;
    constexpr size_t kShown = 64;
    return InvalidField(absl::CHexEscape(PathOf(key.substr(0, kShown))), "is not supported");
  }
  return absl::OkStatus();
}

}  // namespace clamor::edge
