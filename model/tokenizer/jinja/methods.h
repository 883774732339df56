// Methods of strings, lists and dicts, as Python has them: value.name(...).
#pragma once

#include <optional>
#include <string_view>

#include "model/tokenizer/jinja/value.h"

namespace clamor::jinja {

// The method bound to `value`, or nothing if its type has none of that name. Methods that would change a list
// or a dict do not exist.
std::optional<Value> FindMethod(const Value& value, std::string_view name, Arena* arena);

}  // namespace clamor::jinja
