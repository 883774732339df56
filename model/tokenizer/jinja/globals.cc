#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernels/status_macros.h"
#include "model/tokenizer/jinja/builtin.h"
#include "model/tokenizer/jinja/interpreter.h"
#include "model/tokenizer/jinja/operators.h"
#include "model/tokenizer/jinja/print.h"

namespace clamor::jinja {
namespace {

using Kind = Value::Kind;

absl::StatusOr<Value> Range(const Args& args, Arena* arena) {
  const size_t count = args.positional.size();
  if (count == 0 || count > 3) return absl::InvalidArgumentError("range takes one to three arguments");
  CLAMOR_ASSIGN_OR_RETURN(const int64_t first, IntArg(args, 0, 0));
  CLAMOR_ASSIGN_OR_RETURN(const int64_t stop,
                          count > 1 ? IntArg(args, 1, 0) : absl::StatusOr<int64_t>(first));
  CLAMOR_ASSIGN_OR_RETURN(const int64_t step, count > 2 ? IntArg(args, 2, 1) : absl::StatusOr<int64_t>(1));
  if (step == 0) return absl::InvalidArgumentError("range: the step is zero");
  std::vector<Value> items;
  int64_t at = count > 1 ? first : 0;
  while (step > 0 ? at < stop : at > stop) {
    items.push_back(Value::Int(at));
    CLAMOR_RETURN_IF_ERROR(CheckItemCount(items.size()));
    if (__builtin_add_overflow(at, step, &at)) break;
  }
  CLAMOR_RETURN_IF_ERROR(arena->Spend(items.size() / 16));
  return arena->NewList(std::move(items));
}

// The fields of dict(...) and namespace(...): those of a dict, then the named arguments.
absl::StatusOr<Dict> FieldsOf(const Args& args, Arena* arena) {
  Dict fields;
  for (const Value& value : args.positional) {
    if (!value.Is(Kind::kDict))
      return absl::InvalidArgumentError(absl::StrCat("cannot make a dict of a ", TypeName(value)));
    for (const auto& [key, item] : value.dict->entries) fields.Set(key, item);
  }
  for (const auto& [name, value] : args.named) fields.Set(arena->String(std::string(name)), value);
  return fields;
}

absl::StatusOr<Value> MakeDict(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(Dict fields, FieldsOf(args, arena));
  return arena->NewDict(std::move(fields));
}

absl::StatusOr<Value> MakeNamespace(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(Dict fields, FieldsOf(args, arena));
  return arena->NewNamespace(std::move(fields));
}

absl::StatusOr<Value> StrftimeNow(const Args& args, Arena* arena) {
  constexpr size_t kMaxFormatBytes = 256;
  if (args.positional.size() != 1) return absl::InvalidArgumentError("strftime_now takes one argument");
  CLAMOR_ASSIGN_OR_RETURN(const MarkedText* format, StringArg(args, 0));
  if (format->size() > kMaxFormatBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("strftime_now: format of ", format->size(), " bytes, limit is ", kMaxFormatBytes));
  }
  return arena->String(absl::FormatTime(format->text(), absl::Now(), absl::LocalTimeZone()));
}

}  // namespace

void DefineFunctions(Scope* scope, Arena* arena) {
  using Call = absl::StatusOr<Value> (*)(const Args&, Arena*);
  const auto define = [&](const char* name, Call call) {
    scope->Set(name,
               arena->NewFunction({name, [call, arena](const Args& args) { return call(args, arena); }}));
  };
  define("range", Range);
  define("dict", MakeDict);
  define("namespace", MakeNamespace);
  define("strftime_now", StrftimeNow);
}

}  // namespace clamor::jinja
