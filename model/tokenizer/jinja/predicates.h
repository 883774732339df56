// Jinja's tests: `value is name`.
#pragma once

#include <string_view>

#include "model/tokenizer/jinja/builtin.h"

namespace clamor::jinja {

const Builtin* FindTest(std::string_view name);  // null: not supported

}  // namespace clamor::jinja
