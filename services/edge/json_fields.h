// The fields of one JSON object of a request, each taken once; what nobody took is refused by its name.
//
// null is the same as absent. Errors are INVALID_ARGUMENT and begin with the field's path.
// Tested by tests/services/edge/openai_request_test.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace clamor::edge {

// INVALID_ARGUMENT: what stands at `path` is not `expected`.
absl::Status WrongType(const std::string& path, const nlohmann::json& value, const std::string& expected);

class JsonFields {
 public:
  // Borrows `object`. `path` stands before names: "" or "stream_options.".
  // REQUIRES: object.is_object().
  JsonFields(const nlohmann::json& object, std::string path) : object_(object), path_(std::move(path)) {}

  // Null if it is absent.
  const nlohmann::json* Take(const char* key);
  std::string PathOf(const std::string& key) const { return path_ + key; }

  // Each leaves `value` alone if the field is absent.
  absl::Status TakeBool(const char* key, bool& value);
  absl::Status TakeString(const char* key, std::optional<std::string>& value);
  absl::Status TakeNumber(const char* key, std::optional<double>& value);
  // A whole number in [low, high].
  absl::Status TakeInteger(const char* key, int64_t low, int64_t high, std::optional<int64_t>& value);
  // Of no effect here, but small: a scalar, or at most 16 of them by name.
  absl::Status TakeNote(const char* key);

  // Call last: names the first field that is there and was not taken.
  absl::Status Rest() const;

 private:
  const nlohmann::json& object_;
  const std::string path_;
  std::set<std::string> taken_;
};

}  // namespace clamor::edge
