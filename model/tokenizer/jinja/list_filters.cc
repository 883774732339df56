#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/status_macros.h"
#include "model/tokenizer/jinja/filters.h"
#include "model/tokenizer/jinja/operators.h"
#include "model/tokenizer/jinja/predicates.h"
#include "model/tokenizer/jinja/print.h"
#include "model/tokenizer/jinja/subscript.h"
#include "model/tokenizer/jinja/text.h"

namespace clamor::jinja {
namespace {

using Kind = Value::Kind;

const Value& Input(const Args& args) { return args.positional[0]; }

// `value` itself without an attribute, else what "a.b.0" leads to; what is undefined on the way is
// `fallback`.
absl::StatusOr<Value> Follow(const Value& value, const Value& attribute, Arena* arena,
                             const Value& fallback = Value()) {
  if (attribute.IsAbsent() || attribute.Is(Kind::kNone)) return value;
  if (!attribute.Is(Kind::kString)) return Item(value, attribute, arena);
  Value at = value;
  for (const std::string& part : std::vector<std::string>(absl::StrSplit(attribute.text(), '.'))) {
    int64_t index = 0;
    const Value key = absl::SimpleAtoi(part, &index) ? Value::Int(index) : arena->String(part);
    CLAMOR_ASSIGN_OR_RETURN(at, Item(at, key, arena));
    if (at.Is(Kind::kUndefined) && !fallback.IsAbsent()) at = fallback;
  }
  return at;
}

// What items are ordered and told apart by: an attribute of them, in lower case unless case counts.
absl::StatusOr<Value> KeyOf(const Value& item, const Value& attribute, bool case_sensitive, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(const Value key, Follow(item, attribute, arena));
  if (case_sensitive || !key.Is(Kind::kString)) return key;
  CLAMOR_RETURN_IF_ERROR(arena->SpendOnText(key.string->size()));
  return arena->String(Lower(*key.string));
}

// Sorts `items` by `keys`, equal ones in their order.
absl::StatusOr<std::vector<Value>> SortBy(const std::vector<Value>& keys, const std::vector<Value>& items,
                                          bool reverse, Arena* arena) {
  std::vector<size_t> order(items.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  absl::Status status;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    if (!status.ok()) return false;
    const auto less = reverse ? Less(keys[b], keys[a], arena) : Less(keys[a], keys[b], arena);
    if (!less.ok()) status = less.status();
    return less.ok() && *less;
  });
  CLAMOR_RETURN_IF_ERROR(status);
  std::vector<Value> sorted;
  sorted.reserve(items.size());
  for (const size_t i : order) sorted.push_back(items[i]);
  return sorted;
}

absl::StatusOr<Value> Sort(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(const auto items, Iterate(Input(args), arena));
  std::vector<Value> keys;
  for (const Value& item : items) {
    CLAMOR_ASSIGN_OR_RETURN(keys.emplace_back(), KeyOf(item, args.positional[3], BoolArg(args, 2), arena));
  }
  CLAMOR_ASSIGN_OR_RETURN(auto sorted, SortBy(keys, items, BoolArg(args, 1), arena));
  return arena->NewList(std::move(sorted));
}

absl::StatusOr<Value> DictSort(const Args& args, Arena* arena) {
  if (!Input(args).Is(Kind::kDict))
    return absl::InvalidArgumentError("dictsort of something that is not a dict");
  CLAMOR_ASSIGN_OR_RETURN(const auto by, TextArg(args, 2));
  if (by.has_value() && *by != "key" && *by != "value") {
    return absl::InvalidArgumentError("You can only sort by either \"key\" or \"value\"");
  }
  std::vector<Value> keys;
  std::vector<Value> pairs;
  for (const auto& [key, value] : Input(args).dict->entries) {
    pairs.push_back(arena->NewList({key, value}, /*tuple=*/true));
    CLAMOR_ASSIGN_OR_RETURN(keys.emplace_back(),
                            KeyOf(by == "value" ? value : key, Value(), BoolArg(args, 1), arena));
  }
  CLAMOR_ASSIGN_OR_RETURN(auto sorted, SortBy(keys, pairs, BoolArg(args, 3), arena));
  return arena->NewList(std::move(sorted));
}

absl::StatusOr<Value> Unique(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(const auto items, Iterate(Input(args), arena));
  std::vector<Value> keys;
  std::vector<Value> unique;
  for (const Value& item : items) {
    CLAMOR_ASSIGN_OR_RETURN(const Value key, KeyOf(item, args.positional[2], BoolArg(args, 1), arena));
    bool seen = false;
    for (size_t i = 0; i < keys.size() && !seen; ++i) {
      CLAMOR_ASSIGN_OR_RETURN(seen, Equal(keys[i], key, arena));
    }
    if (seen) continue;
    keys.push_back(key);
    unique.push_back(item);
  }
  return arena->NewList(std::move(unique));
}

template <bool kMax>
absl::StatusOr<Value> Extreme(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(const auto items, Iterate(Input(args), arena));
  if (items.empty()) return arena->Undefined("No aggregated item, sequence was empty.");
  Value best = items[0];
  CLAMOR_ASSIGN_OR_RETURN(Value best_key, KeyOf(best, args.positional[2], BoolArg(args, 1), arena));
  for (const Value& item : items) {
    CLAMOR_ASSIGN_OR_RETURN(const Value key, KeyOf(item, args.positional[2], BoolArg(args, 1), arena));
    CLAMOR_ASSIGN_OR_RETURN(const bool better,
                            kMax ? Less(best_key, key, arena) : Less(key, best_key, arena));
    if (!better) continue;
    best = item;
    best_key = key;
  }
  return best;
}

absl::StatusOr<Value> Sum(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(const auto items, Iterate(Input(args), arena));
  Value total = args.positional[2].IsAbsent() ? Value::Int(0) : args.positional[2];
  for (const Value& item : items) {
    CLAMOR_ASSIGN_OR_RETURN(const Value addend, Follow(item, args.positional[1], arena));
    CLAMOR_ASSIGN_OR_RETURN(total, Arithmetic("+", total, addend, arena));
    CLAMOR_RETURN_IF_ERROR(arena->Spend(1));
  }
  return total;
}

absl::StatusOr<Value> Join(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(const auto items, Iterate(Input(args), arena));
  CLAMOR_ASSIGN_OR_RETURN(const MarkedText separator, ToStr(args.positional[1]));
  MarkedText out;
  for (size_t i = 0; i < items.size(); ++i) {
    CLAMOR_ASSIGN_OR_RETURN(const Value item, Follow(items[i], args.positional[2], arena));
    if (i > 0) out.Append(separator);
    CLAMOR_RETURN_IF_ERROR(AppendStr(item, &out));
    CLAMOR_RETURN_IF_ERROR(CheckStringSize(out.size()));
  }
  CLAMOR_RETURN_IF_ERROR(arena->SpendOnText(out.size()));
  return arena->String(std::move(out));
}

template <bool kLast>
absl::StatusOr<Value> EndItem(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(const auto items, Iterate(Input(args), arena));
  if (items.empty())
    return arena->Undefined(absl::StrCat("No ", kLast ? "last" : "first", " item, sequence was empty."));
  return kLast ? items.back() : items.front();
}

absl::StatusOr<Value> AsList(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(auto items, Iterate(Input(args), arena));
  return arena->NewList(std::move(items));
}

absl::StatusOr<Value> Items(const Args& args, Arena* arena) {
  if (Input(args).Is(Kind::kUndefined)) return arena->NewList({});
  if (!Input(args).Is(Kind::kDict))
    return absl::InvalidArgumentError("Can only get item pairs from a mapping.");
  std::vector<Value> pairs;
  for (const auto& [key, value] : Input(args).dict->entries)
    pairs.push_back(arena->NewList({key, value}, true));
  return arena->NewList(std::move(pairs));
}

absl::StatusOr<Value> Reverse(const Args& args, Arena* arena) {
  if (Input(args).Is(Kind::kString)) return Slice(Input(args), Value(), Value(), Value::Int(-1), arena);
  CLAMOR_ASSIGN_OR_RETURN(auto items, Iterate(Input(args), arena));
  std::reverse(items.begin(), items.end());
  return arena->NewList(std::move(items));
}

// The builtin that the argument at `index` names, for the filters that apply another filter or test to each
// item.
absl::StatusOr<const Builtin*> NamedBuiltin(const Args& args, size_t index,
                                            const Builtin* (*find)(std::string_view)) {
  CLAMOR_ASSIGN_OR_RETURN(const MarkedText* name, StringArg(args, index));
  const Builtin* builtin = find(name->text());
  if (builtin == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("No filter or test named '", name->text().substr(0, 80), "'"));
  }
  return builtin;
}

// The arguments after the first `n`.
Args Rest(const Args& args, size_t n) {
  Args rest;
  rest.positional.assign(args.positional.begin() + static_cast<std::ptrdiff_t>(n), args.positional.end());
  rest.named = args.named;
  return rest;
}

// Keeps the items that pass a test, or those that fail it: select, reject and their forms that test an
// attribute.
template <bool kKeep, bool kAttribute>
absl::StatusOr<Value> Select(const Args& args, Arena* arena) {
  constexpr size_t kTest = kAttribute ? 2 : 1;
  if (args.positional.size() < kTest)
    return absl::InvalidArgumentError("Missing parameter for attribute name");
  const Value attribute = kAttribute ? args.positional[1] : Value();
  const Builtin* test = nullptr;
  Args test_args;
  if (args.positional.size() > kTest) {
    CLAMOR_ASSIGN_OR_RETURN(test, NamedBuiltin(args, kTest, FindTest));
    test_args = Rest(args, kTest + 1);
  }
  CLAMOR_ASSIGN_OR_RETURN(const auto items, Iterate(Input(args), arena));
  std::vector<Value> kept;
  for (const Value& item : items) {
    CLAMOR_RETURN_IF_ERROR(arena->Spend(1));
    CLAMOR_ASSIGN_OR_RETURN(Value verdict, Follow(item, attribute, arena));
    if (test != nullptr) {
      CLAMOR_ASSIGN_OR_RETURN(verdict, CallBuiltin(*test, verdict, test_args, arena));
    }
    if (Truthy(verdict) == kKeep) kept.push_back(item);
  }
  return arena->NewList(std::move(kept));
}

// map('filter', ...) or map(attribute=..., default=...).
absl::StatusOr<Value> Map(const Args& args, Arena* arena) {
  Value attribute;
  Value fallback;
  for (const auto& [name, value] : args.named) {
    if (name == "attribute") attribute = value;
    if (name == "default") fallback = value;
  }
  const Builtin* filter = nullptr;
  if (args.positional.size() > 1) {
    CLAMOR_ASSIGN_OR_RETURN(filter, NamedBuiltin(args, 1, FindFilter));
  } else if (attribute.IsAbsent()) {
    return absl::InvalidArgumentError("map requires a filter argument");
  }
  CLAMOR_ASSIGN_OR_RETURN(const auto items, Iterate(Input(args), arena));
  const Args filter_args = filter == nullptr ? Args() : Rest(args, 2);
  std::vector<Value> mapped;
  for (const Value& item : items) {
    CLAMOR_RETURN_IF_ERROR(arena->Spend(1));
    if (filter != nullptr) {
      CLAMOR_ASSIGN_OR_RETURN(mapped.emplace_back(), CallBuiltin(*filter, item, filter_args, arena));
    } else {
      CLAMOR_ASSIGN_OR_RETURN(mapped.emplace_back(), Follow(item, attribute, arena, fallback));
    }
  }
  return arena->NewList(std::move(mapped));
}

constexpr Builtin kFilters[] = {
    {"dictsort", "case_sensitive,by,reverse", DictSort},
    {"first", "", EndItem<false>},
    {"items", "", Items},
    {"join", "d,attribute", Join},
    {"last", "", EndItem<true>},
    {"list", "", AsList},
    {"map", "*", Map},
    {"max", "case_sensitive,attribute", Extreme<true>},
    {"min", "case_sensitive,attribute", Extreme<false>},
    {"reject", "*", Select<false, false>},
    {"rejectattr", "*", Select<false, true>},
    {"reverse", "", Reverse},
    {"select", "*", Select<true, false>},
    {"selectattr", "*", Select<true, true>},
    {"sort", "reverse,case_sensitive,attribute", Sort},
    {"sum", "attribute,start", Sum},
    {"unique", "case_sensitive,attribute", Unique},
};

}  // namespace

std::span<const Builtin> ListFilters() { return kFilters; }

}  // namespace clamor::jinja
