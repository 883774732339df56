#include "model/tokenizer/jinja/builtin.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "model/tokenizer/jinja/operators.h"
#include "model/tokenizer/jinja/print.h"

namespace clamor::jinja {
namespace {

absl::Status WrongType(const Value& value, const char* expected) {
  if (value.Is(Value::Kind::kUndefined)) return UndefinedError(value);
  return absl::InvalidArgumentError(
      absl::StrCat("an argument of type '", TypeName(value), "', expected ", expected));
}

}  // namespace

const Builtin* FindBuiltin(std::span<const Builtin> table, std::string_view name) {
  const auto found =
      std::find_if(table.begin(), table.end(), [&](const Builtin& b) { return b.name == name; });
  return found == table.end() ? nullptr : &*found;
}

absl::StatusOr<Value> CallBuiltin(const Builtin& builtin, const Value& input, const Args& args,
                                  Arena* arena) {
  Args bound;
  bound.positional.push_back(input);
  bound.positional.insert(bound.positional.end(), args.positional.begin(), args.positional.end());
  if (builtin.parameters == "*") {
    bound.named = args.named;
    return builtin.call(bound, arena);
  }
  const std::string parameters(builtin.parameters);
  std::vector<std::string> names = absl::StrSplit(parameters, ',', absl::SkipEmpty());
  size_t required = 0;
  for (std::string& name : names) {
    if (!name.ends_with('!')) continue;
    name.pop_back();
    ++required;
  }
  if (args.positional.size() > names.size()) {
    return absl::InvalidArgumentError(absl::StrCat(std::string(builtin.name), " takes at most ", names.size(),
                                                   " arguments, got ", args.positional.size()));
  }
  bound.positional.resize(1 + names.size());
  for (const auto& [name, value] : args.named) {
    const auto at = std::find(names.begin(), names.end(), name);
    if (at == names.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(std::string(builtin.name), " has no argument '", std::string(name), "'"));
    }
    bound.positional[1 + (at - names.begin())] = value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (bound.positional[1 + i].IsAbsent()) {
      return absl::InvalidArgumentError(
          absl::StrCat(std::string(builtin.name), " needs an argument '", names[i], "'"));
    }
  }
  return builtin.call(bound, arena);
}

absl::StatusOr<int64_t> IntArg(const Args& args, size_t index, int64_t fallback) {
  const Value& value = args.positional[index];
  if (value.IsAbsent() || value.Is(Value::Kind::kNone)) return fallback;
  if (value.Is(Value::Kind::kBool)) return value.boolean ? 1 : 0;
  if (!value.Is(Value::Kind::kInt)) return WrongType(value, "int");
  return value.integer;
}

absl::StatusOr<std::optional<std::string>> TextArg(const Args& args, size_t index) {
  const Value& value = args.positional[index];
  if (value.IsAbsent() || value.Is(Value::Kind::kNone)) return std::optional<std::string>();
  if (!value.Is(Value::Kind::kString)) return WrongType(value, "str");
  return std::optional<std::string>(value.text());
}

absl::StatusOr<const MarkedText*> StringArg(const Args& args, size_t index) {
  const Value& value = args.positional[index];
  if (!value.Is(Value::Kind::kString)) return WrongType(value, "str");
  return value.string;
}

bool BoolArg(const Args& args, size_t index) { return Truthy(args.positional[index]); }

}  // namespace clamor::jinja
