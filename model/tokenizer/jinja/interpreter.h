// Runs a parsed template: statements write text, expressions have values.
//
// A template sees its variables and the functions range, namespace, dict, raise_exception and strftime_now;
// the last reads the clock, nothing else leaves the arena. Steps, memory, output and depth are bounded.
// Tested by tests/model/tokenizer/jinja_test.cc.
#pragma once

#include "absl/status/statusor.h"
#include "model/tokenizer/jinja/ast.h"
#include "model/tokenizer/jinja/value.h"

namespace clamor::jinja {

// The text that `source` makes with the variables in `globals`; all values live in `arena`.
// INVALID_ARGUMENT: what raise_exception was called with, or "chat template line N: " and what is wrong
// there. RESOURCE_EXHAUSTED names the limit.
absl::StatusOr<MarkedText> Render(const Template& source, Scope* globals, Arena* arena);

// The functions that every template may call, into `scope`.
void DefineFunctions(Scope* scope, Arena* arena);

}  // namespace clamor::jinja
