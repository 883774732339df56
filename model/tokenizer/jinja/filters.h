// Jinja's filters: `value | name`.
#pragma once

#include <span>
#include <string_view>

#include "model/tokenizer/jinja/builtin.h"

namespace clamor::jinja {

const Builtin* FindFilter(std::string_view name);  // null: not supported

// The two tables that FindFilter searches.
std::span<const Builtin> ScalarFilters();  // of text and numbers: scalar_filters.cc
std::span<const Builtin> ListFilters();    // of lists and dicts: list_filters.cc

}  // namespace clamor::jinja
