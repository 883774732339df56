// JSON from files that nobody vouches for: no exceptions, bounded depth, fields read with their checks, and
// values that may be put into a message. All errors are INVALID_ARGUMENT and name file, field and value.
//
// Tested by tests/model/checkpoint/checked_json_test.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace clamor {

inline constexpr int kMaxJsonDepth = 64;  // levels of arrays and objects

// An error says where in `file` the text stops being JSON, or its depth and the limit. Memory is at most some
// thirty times the text, so callers bound its size.
absl::StatusOr<nlohmann::json> ParseJson(std::string_view text, const std::string& file);

// `value` as JSON in printable ASCII, cut after 100 characters: what a message may quote from a file.
std::string Quote(const nlohmann::json& value);

// `value` as a whole number in [low, high]; `name` is what an error calls it. REQUIRES: low >= 0.
absl::StatusOr<int32_t> CheckInt(const nlohmann::json& value, const std::string& name, int32_t low,
                                 int32_t high);

// The fields of one JSON object. A null counts as absent, as it does in transformers; an absent field without
// a default is an error. Borrows the object.
class JsonFields {
 public:
  // `path` stands before the names of fields in messages: "config.json: " or "config.json: rope_scaling.".
  // REQUIRES: object.is_object().
  JsonFields(const nlohmann::json& object, std::string path) : object_(&object), path_(std::move(path)) {}

  const nlohmann::json& object() const { return *object_; }
  std::string Name(const std::string& key) const { return path_ + key; }
  const nlohmann::json* Find(const char* key) const;  // null pointer: absent
  bool IsNull(const char* key) const;                 // there, and null
  absl::Status Missing(const char* key) const;

  absl::StatusOr<int32_t> Int(const char* key, int32_t low, int32_t high,
                              std::optional<int32_t> absent = {}) const;
  absl::StatusOr<double> Number(const char* key, double low, double high,
                                std::optional<double> absent = {}) const;
  absl::StatusOr<bool> Bool(const char* key, bool absent) const;
  absl::StatusOr<JsonFields> Object(const char* key) const;  // absent: an object without fields

 private:
  const nlohmann::json* object_;
  std::string path_;
};

}  // namespace clamor
