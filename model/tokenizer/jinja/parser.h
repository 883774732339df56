// Parses the template language: expressions and statements as Jinja2 has them, without imports, includes and
// blocks. Tested by tests/model/tokenizer/jinja_test.cc.
#pragma once

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "model/tokenizer/jinja/ast.h"

namespace clamor::jinja {

// INVALID_ARGUMENT: "chat template line N: " and the construct that is not understood, among them unknown
// filters and tests, and nesting beyond a hundred levels.
absl::StatusOr<std::unique_ptr<const Template>> Parse(std::string_view source);

}  // namespace clamor::jinja
