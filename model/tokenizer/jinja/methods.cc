#include "model/tokenizer/jinja/methods.h"

#include <algorithm>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/status_macros.h"
#include "model/tokenizer/jinja/builtin.h"
#include "model/tokenizer/jinja/operators.h"
#include "model/tokenizer/jinja/subscript.h"
#include "model/tokenizer/jinja/text.h"
#include "model/tokenizer/utf8.h"

namespace clamor::jinja {
namespace {

using Kind = Value::Kind;

// The string that a string method was called on.
const MarkedText& Self(const Args& args) { return *args.positional[0].string; }

Value ListOf(std::vector<MarkedText> parts, Arena* arena) {
  std::vector<Value> items;
  items.reserve(parts.size());
  for (MarkedText& part : parts) items.push_back(arena->String(std::move(part)));
  return arena->NewList(std::move(items));
}

template <Sides kSides>
absl::StatusOr<Value> StripMethod(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(const auto chars, TextArg(args, 1));
  CLAMOR_RETURN_IF_ERROR(arena->SpendOnText(Self(args).size()));
  CLAMOR_ASSIGN_OR_RETURN(MarkedText text, Strip(Self(args), chars, kSides));
  return arena->String(std::move(text));
}

template <auto kSplit>
absl::StatusOr<Value> SplitMethod(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(const auto separator, TextArg(args, 1));
  CLAMOR_ASSIGN_OR_RETURN(const int64_t limit, IntArg(args, 2, -1));
  CLAMOR_RETURN_IF_ERROR(arena->SpendOnText(Self(args).size()));
  CLAMOR_ASSIGN_OR_RETURN(auto parts, kSplit(Self(args), separator, limit));
  return ListOf(std::move(parts), arena);
}

absl::StatusOr<Value> SplitLinesMethod(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(auto lines, SplitLines(Self(args)));
  return ListOf(std::move(lines), arena);
}

template <auto kMap>
absl::StatusOr<Value> MapMethod(const Args& args, Arena* arena) {
  CLAMOR_RETURN_IF_ERROR(arena->SpendOnText(Self(args).size()));
  return arena->String(kMap(Self(args)));
}

// startswith and endswith take a string or a tuple of strings.
template <bool kAtEnd>
absl::StatusOr<Value> HasAffix(const Args& args, Arena* arena) {
  const Value& affix = args.positional[1];
  std::vector<Value> affixes = {affix};
  if (affix.Is(Kind::kList)) affixes = affix.list->items;
  const std::string& text = Self(args).text();
  for (const Value& candidate : affixes) {
    CLAMOR_ASSIGN_OR_RETURN(const MarkedText* wanted, StringArg({.positional = {candidate}}, 0));
    CLAMOR_RETURN_IF_ERROR(arena->SpendOnText(wanted->size()));
    if (kAtEnd ? text.ends_with(wanted->text()) : text.starts_with(wanted->text())) return Value::Bool(true);
  }
  return Value::Bool(false);
}

template <bool kAtEnd>
absl::StatusOr<Value> RemoveAffix(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(const Value has, HasAffix<kAtEnd>(args, arena));
  CLAMOR_ASSIGN_OR_RETURN(const MarkedText* affix, StringArg(args, 1));
  if (!has.boolean) return args.positional[0];
  const size_t size = Self(args).size();
  return arena->String(kAtEnd ? Self(args).Slice(0, size - affix->size())
                              : Self(args).Slice(affix->size(), size));
}

absl::StatusOr<Value> ReplaceMethod(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(const MarkedText* from, StringArg(args, 1));
  CLAMOR_ASSIGN_OR_RETURN(const MarkedText* to, StringArg(args, 2));
  CLAMOR_ASSIGN_OR_RETURN(const int64_t limit, IntArg(args, 3, -1));
  CLAMOR_RETURN_IF_ERROR(arena->SpendOnText(Self(args).size()));
  CLAMOR_ASSIGN_OR_RETURN(MarkedText text, Replace(Self(args), from->text(), *to, limit));
  return arena->String(std::move(text));
}

// The place of the first or last occurrence in characters, -1 if there is none.
template <bool kLast>
absl::StatusOr<Value> FindMethodOfStr(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(const MarkedText* wanted, StringArg(args, 1));
  CLAMOR_RETURN_IF_ERROR(arena->SpendOnText(Self(args).size()));
  const std::string_view text = Self(args).text();
  const size_t at = kLast ? FindLast(text, wanted->text()) : Find(text, wanted->text());
  return Value::Int(at == std::string_view::npos ? -1 : static_cast<int64_t>(CountChars(text.substr(0, at))));
}

absl::StatusOr<Value> CountInStr(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(const MarkedText* wanted, StringArg(args, 1));
  const std::string_view text = Self(args).text();
  CLAMOR_RETURN_IF_ERROR(arena->SpendOnText(text.size()));
  if (wanted->empty()) return Value::Int(static_cast<int64_t>(CountChars(text)) + 1);
  int64_t count = 0;
  for (size_t at = 0; (at = Find(text, wanted->text(), at)) != std::string_view::npos; at += wanted->size())
    ++count;
  return Value::Int(count);
}

absl::StatusOr<Value> JoinMethod(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(const auto items, Iterate(args.positional[1], arena));
  MarkedText out;
  for (size_t i = 0; i < items.size(); ++i) {
    CLAMOR_ASSIGN_OR_RETURN(const MarkedText* item, StringArg({.positional = {items[i]}}, 0));
    if (i > 0) out.Append(Self(args));
    out.Append(*item);
    CLAMOR_RETURN_IF_ERROR(CheckStringSize(out.size()));
  }
  return arena->String(std::move(out));
}

template <typename Predicate>
absl::StatusOr<Value> AllChars(const Args& args, Arena* arena, Predicate predicate) {
  CLAMOR_RETURN_IF_ERROR(arena->SpendOnText(Self(args).size()));
  bool all = !Self(args).empty();
  ForEachChar(Self(args).text(), [&](uint32_t code, std::string_view) { all = all && predicate(code); });
  return Value::Bool(all);
}
absl::StatusOr<Value> IsDigit(const Args& args, Arena* arena) { return AllChars(args, arena, IsNumeric); }
absl::StatusOr<Value> IsSpace(const Args& args, Arena* arena) { return AllChars(args, arena, IsPythonSpace); }
absl::StatusOr<Value> IsAlpha(const Args& args, Arena* arena) {
  return AllChars(args, arena, [](uint32_t code) { return IsWord(code) && !IsNumeric(code) && code != '_'; });
}

absl::StatusOr<Value> ItemsOfDict(const Args& args, Arena* arena) {
  std::vector<Value> items;
  for (const auto& [key, value] : args.positional[0].dict->entries)
    items.push_back(arena->NewList({key, value}, true));
  return arena->NewList(std::move(items));
}
absl::StatusOr<Value> KeysOfDict(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(auto keys, Iterate(args.positional[0], arena));
  return arena->NewList(std::move(keys));
}
absl::StatusOr<Value> ValuesOfDict(const Args& args, Arena* arena) {
  std::vector<Value> values;
  for (const auto& [key, value] : args.positional[0].dict->entries) values.push_back(value);
  return arena->NewList(std::move(values));
}
absl::StatusOr<Value> GetOfDict(const Args& args, Arena*) {
  const Value& key = args.positional[1];
  const Value* found = key.Is(Kind::kString) ? args.positional[0].dict->Find(key.text()) : nullptr;
  if (found != nullptr) return *found;
  return args.positional[2].IsAbsent() ? Value::None() : args.positional[2];
}
absl::StatusOr<Value> CopyOfDict(const Args& args, Arena*) { return args.positional[0]; }

// The places of items equal to the argument.
absl::StatusOr<std::vector<int64_t>> Occurrences(const Args& args, Arena* arena) {
  std::vector<int64_t> places;
  const auto& items = args.positional[0].list->items;
  for (size_t i = 0; i < items.size(); ++i) {
    CLAMOR_ASSIGN_OR_RETURN(const bool equal, Equal(items[i], args.positional[1], arena));
    if (equal) places.push_back(static_cast<int64_t>(i));
  }
  return places;
}
absl::StatusOr<Value> CountInList(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(const auto places, Occurrences(args, arena));
  return Value::Int(static_cast<int64_t>(places.size()));
}
absl::StatusOr<Value> IndexInList(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(const auto places, Occurrences(args, arena));
  if (places.empty()) return absl::InvalidArgumentError("index: the value is not in the list");
  return Value::Int(places[0]);
}

constexpr Builtin kStringMethods[] = {
    {"capitalize", "", MapMethod<Capitalize>},
    {"count", "sub!", CountInStr},
    {"endswith", "suffix!", HasAffix<true>},
    {"find", "sub!", FindMethodOfStr<false>},
    {"isalpha", "", IsAlpha},
    {"isdigit", "", IsDigit},
    {"isspace", "", IsSpace},
    {"join", "iterable!", JoinMethod},
    {"lower", "", MapMethod<Lower>},
    {"lstrip", "chars", StripMethod<Sides::kLeft>},
    {"removeprefix", "prefix!", RemoveAffix<false>},
    {"removesuffix", "suffix!", RemoveAffix<true>},
    {"replace", "old!,new!,count", ReplaceMethod},
    {"rfind", "sub!", FindMethodOfStr<true>},
    {"rsplit", "sep,maxsplit", SplitMethod<SplitFromRight>},
    {"rstrip", "chars", StripMethod<Sides::kRight>},
    {"split", "sep,maxsplit", SplitMethod<Split>},
    {"splitlines", "", SplitLinesMethod},
    {"startswith", "prefix!", HasAffix<false>},
    {"strip", "chars", StripMethod<Sides::kBoth>},
    {"title", "", MapMethod<Title>},
    {"upper", "", MapMethod<Upper>},
};

constexpr Builtin kDictMethods[] = {
    {"copy", "", CopyOfDict}, {"get", "key!,default", GetOfDict}, {"items", "", ItemsOfDict},
    {"keys", "", KeysOfDict}, {"values", "", ValuesOfDict},
};

constexpr Builtin kListMethods[] = {{"count", "value!", CountInList}, {"index", "value!", IndexInList}};

std::span<const Builtin> MethodsOf(const Value& value) {
  switch (value.kind) {
    case Kind::kString:
      return kStringMethods;
    case Kind::kDict:
      return kDictMethods;
    case Kind::kList:
      return kListMethods;
    default:
      return {};
  }
}

}  // namespace

std::optional<Value> FindMethod(const Value& value, std::string_view name, Arena* arena) {
  const Builtin* method = FindBuiltin(MethodsOf(value), name);
  if (method == nullptr) return std::nullopt;
  return arena->NewFunction({std::string(name), [method, value, arena](const Args& args) {
                               return CallBuiltin(*method, value, args, arena);
                             }});
}

}  // namespace clamor::jinja
