// A named function of the template language: a filter, a test or a method. The input (what stands before `|`,
// `is` or the dot) is its first argument; the others have names, by which or in whose order they are given.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "model/tokenizer/jinja/value.h"

namespace clamor::jinja {

struct Builtin {
  std::string_view name;
  // Names after the input, joined by commas, with a '!' behind those that must be given; "*": whatever is
  // given.
  std::string_view parameters;
  // Gets the input and one argument for each parameter, absent ones as Value(); for "*" all as given.
  absl::StatusOr<Value> (*call)(const Args& args, Arena* arena);
};

const Builtin* FindBuiltin(std::span<const Builtin> table, std::string_view name);  // null: no such name

// INVALID_ARGUMENT names the builtin and the argument it does not take.
absl::StatusOr<Value> CallBuiltin(const Builtin& builtin, const Value& input, const Args& args, Arena* arena);

// The argument at `index` with its type checked; absent ones and None are `fallback`.
absl::StatusOr<int64_t> IntArg(const Args& args, size_t index, int64_t fallback);
absl::StatusOr<std::optional<std::string>> TextArg(const Args& args, size_t index);
absl::StatusOr<const MarkedText*> StringArg(const Args& args, size_t index);  // must be there
bool BoolArg(const Args& args, size_t index);                                 // false if absent

}  // namespace clamor::jinja
