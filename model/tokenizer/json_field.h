// Reading untrusted JSON files: bounded parsing, and typed fields whose errors name file, field and value.
//
// A `path` is what an error begins with, such as "tokenizer.json: model.merges[3]".
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace clamor {

// INVALID_ARGUMENT with the offset of the fault for text that is not JSON, is nested deeper than 64 levels or
// holds more than 8 million values.
absl::StatusOr<nlohmann::json> ParseUntrustedJson(const std::string& file, std::string_view text);

// `value` as JSON in ASCII, cut to 80 bytes: what an error may quote of a file.
std::string Shown(const nlohmann::json& value);

// "PATH: VALUE; expected EXPECTED"
absl::Status UnexpectedValue(const std::string& path, const nlohmann::json& value,
                             const std::string& expected);

bool IsIntegerIn(const nlohmann::json& value, int64_t low, int64_t high);

// The field `key` of `object`; null stands for absent, and JSON null is what an absent field reads as.
const nlohmann::json& Field(const nlohmann::json& object, const char* key);

// Each fails with UnexpectedValue at "PATH.KEY" if the field has another type, or is absent without a
// `fallback`.
absl::StatusOr<std::string> StringField(const nlohmann::json& object, const char* key,
                                        const std::string& path,
                                        std::optional<std::string> fallback = std::nullopt);
absl::StatusOr<bool> BoolField(const nlohmann::json& object, const char* key, const std::string& path,
                               std::optional<bool> fallback = std::nullopt);
// The array itself, which lives as long as `object`.
absl::StatusOr<const nlohmann::json*> ArrayField(const nlohmann::json& object, const char* key,
                                                 const std::string& path);

}  // namespace clamor
