// A template's source as tokens, white space already treated: trim_blocks and lstrip_blocks are on, as
// transformers sets them, and -%} {%- +%} {%+ work on top. Tested by tests/model/tokenizer/jinja_test.cc
// against texts that Jinja2 rendered.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace clamor::jinja {

struct Token {
  enum class Kind {
    kText,        // to be put out as it is
    kBlockBegin,  // {%
    kBlockEnd,    // %}
    kPrintBegin,  // {{
    kPrintEnd,    // }}
    kName,
    kString,   // `text` is what it stands for
    kInteger,  // `text` holds decimal digits
    kFloat,
    kOperator,
    kEnd,
  };
  Kind kind;
  std::string text;
  int line;
};

// INVALID_ARGUMENT with the line: an open comment, string or tag, a character no expression has.
absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source);

// INVALID_ARGUMENT: "chat template line LINE: MESSAGE".
absl::Status ErrorAt(int line, const std::string& message);

}  // namespace clamor::jinja
