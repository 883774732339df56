// Jinja's operators on values, as Python defines them. Errors are INVALID_ARGUMENT with Python's words.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "absl/status/statusor.h"
#include "model/tokenizer/jinja/value.h"

namespace clamor::jinja {

bool Truthy(const Value& value);
// Integers, and booleans as 0 and 1.
std::optional<int64_t> AsInt(const Value& value);

// `left op right` for + - * / // % ** ~.
absl::StatusOr<Value> Arithmetic(std::string_view op, const Value& left, const Value& right, Arena* arena);
absl::StatusOr<Value> Negate(const Value& value);

// `left op right` for == != < <= > >= in, and "not in".
absl::StatusOr<bool> Compare(std::string_view op, const Value& left, const Value& right, Arena* arena);
absl::StatusOr<bool> Equal(const Value& left, const Value& right, Arena* arena);
absl::StatusOr<bool> Less(const Value& left, const Value& right, Arena* arena);

// INVALID_ARGUMENT with what is known of an undefined value.
absl::Status UndefinedError(const Value& value);

}  // namespace clamor::jinja
