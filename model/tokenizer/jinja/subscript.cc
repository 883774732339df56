#include "model/tokenizer/jinja/subscript.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "model/tokenizer/jinja/methods.h"
#include "model/tokenizer/jinja/operators.h"
#include "model/tokenizer/jinja/print.h"
#include "model/tokenizer/jinja/text.h"

namespace clamor::jinja {
namespace {

using Kind = Value::Kind;

Value MissingAttribute(const Value& value, std::string_view name, Arena* arena) {
  const std::string owner = value.Is(Kind::kNone) ? "None" : absl::StrCat(TypeName(value), " object");
  return arena->Undefined(absl::StrCat("'", owner, "' has no attribute '", std::string(name), "'"));
}

Value LoopAttribute(const Value& value, std::string_view name, Arena* arena) {
  const Loop& loop = *value.loop;
  const auto size = static_cast<int64_t>(loop.items->size());
  const auto index0 = static_cast<int64_t>(loop.index0);
  if (name == "index") return Value::Int(index0 + 1);
  if (name == "index0") return Value::Int(index0);
  if (name == "revindex") return Value::Int(size - index0);
  if (name == "revindex0") return Value::Int(size - index0 - 1);
  if (name == "first") return Value::Bool(index0 == 0);
  if (name == "last") return Value::Bool(index0 + 1 == size);
  if (name == "length") return Value::Int(size);
  if (name == "depth") return Value::Int(loop.depth);
  if (name == "depth0") return Value::Int(loop.depth - 1);
  if (name == "previtem") {
    return index0 > 0 ? (*loop.items)[index0 - 1] : arena->Undefined("there is no previous item");
  }
  if (name == "nextitem") {
    return index0 + 1 < size ? (*loop.items)[index0 + 1] : arena->Undefined("there is no next item");
  }
  if (name == "cycle") {
    return arena->NewFunction({"cycle", [index0](const Args& args) -> absl::StatusOr<Value> {
                                 if (args.positional.empty())
                                   return absl::InvalidArgumentError("no items for cycling given");
                                 return args.positional[index0 % args.positional.size()];
                               }});
  }
  return MissingAttribute(value, name, arena);
}

// The index that Python means by `index` in a sequence of `size`; negative ones count from the end.
std::optional<size_t> Position(int64_t index, size_t size) {
  if (index < 0) index += static_cast<int64_t>(size);
  if (index < 0 || index >= static_cast<int64_t>(size)) return std::nullopt;
  return static_cast<size_t>(index);
}

absl::StatusOr<std::optional<int64_t>> Bound(const Value& value) {
  if (value.Is(Kind::kNone) || value.IsAbsent()) return std::optional<int64_t>();
  if (value.Is(Kind::kUndefined)) return UndefinedError(value);
  const auto bound = AsInt(value);
  if (!bound.has_value()) return absl::InvalidArgumentError("slice indices must be integers or None");
  return bound;
}

// The positions of size[start:stop:step].
absl::StatusOr<std::vector<size_t>> SlicePositions(const Value& start, const Value& stop, const Value& step,
                                                   int64_t size) {
  CLAMOR_ASSIGN_OR_RETURN(const auto given_start, Bound(start));
  CLAMOR_ASSIGN_OR_RETURN(const auto given_stop, Bound(stop));
  CLAMOR_ASSIGN_OR_RETURN(const auto given_step, Bound(step));
  const int64_t by = std::clamp(given_step.value_or(1), -(size + 1), size + 1);
  if (given_step == 0) return absl::InvalidArgumentError("slice step cannot be zero");
  const int64_t low = by > 0 ? 0 : -1;
  const int64_t high = by > 0 ? size : size - 1;
  const auto clip = [&](int64_t index) { return std::clamp(index < 0 ? index + size : index, low, high); };
  std::vector<size_t> positions;
  const int64_t end = given_stop.has_value() ? clip(*given_stop) : (by > 0 ? size : -1);
  int64_t at = given_start.has_value() ? clip(*given_start) : (by > 0 ? 0 : size - 1);
  for (; by > 0 ? at < end : at > end; at += by) positions.push_back(static_cast<size_t>(at));
  return positions;
}

}  // namespace

absl::StatusOr<Value> Attribute(const Value& value, std::string_view name, Arena* arena) {
  switch (value.kind) {
    case Kind::kUndefined:
      return UndefinedError(value);
    case Kind::kLoop:
      return LoopAttribute(value, name, arena);
    case Kind::kNamespace:
      if (const Value* field = value.fields->Find(name)) return *field;
      break;
    default:
      if (const auto method = FindMethod(value, name, arena)) return *method;
      if (const Value* item = value.Is(Kind::kDict) ? value.dict->Find(name) : nullptr) return *item;
  }
  return MissingAttribute(value, name, arena);
}

absl::StatusOr<Value> Item(const Value& value, const Value& key, Arena* arena) {
  if (value.Is(Kind::kUndefined)) return UndefinedError(value);
  if (key.Is(Kind::kString)) {
    if (const Value* item = value.Is(Kind::kDict) ? value.dict->Find(key.text()) : nullptr) return *item;
    return Attribute(value, key.text(), arena);
  }
  const auto index = AsInt(key);
  if (index.has_value() && value.Is(Kind::kList)) {
    if (const auto at = Position(*index, value.list->items.size())) return value.list->items[*at];
  }
  if (index.has_value() && value.Is(Kind::kString)) {
    CLAMOR_RETURN_IF_ERROR(arena->SpendOnText(value.string->size()));
    const std::vector<size_t> offsets = CharOffsets(value.text());
    if (const auto at = Position(*index, offsets.size() - 1)) {
      return arena->String(value.string->Slice(offsets[*at], offsets[*at + 1]));
    }
  }
  CLAMOR_ASSIGN_OR_RETURN(const MarkedText shown, ToStr(key));
  return arena->Undefined(
      absl::StrCat(TypeName(value), " object has no element ", shown.text().substr(0, 80)));
}

absl::StatusOr<Value> Slice(const Value& value, const Value& start, const Value& stop, const Value& step,
                            Arena* arena) {
  if (value.Is(Kind::kList)) {
    const auto& all = value.list->items;
    CLAMOR_ASSIGN_OR_RETURN(const auto positions,
                            SlicePositions(start, stop, step, static_cast<int64_t>(all.size())));
    std::vector<Value> items;
    items.reserve(positions.size());
    for (const size_t at : positions) items.push_back(all[at]);
    return arena->NewList(std::move(items), value.list->tuple);
  }
  if (value.Is(Kind::kString)) {
    CLAMOR_RETURN_IF_ERROR(arena->SpendOnText(value.string->size()));
    const std::vector<size_t> offsets = CharOffsets(value.text());
    CLAMOR_ASSIGN_OR_RETURN(const auto positions,
                            SlicePositions(start, stop, step, static_cast<int64_t>(offsets.size()) - 1));
    MarkedText text;
    for (const size_t at : positions) text.Append(*value.string, offsets[at], offsets[at + 1]);
    return arena->String(std::move(text));
  }
  if (value.Is(Kind::kUndefined)) return UndefinedError(value);
  return arena->Undefined(absl::StrCat(TypeName(value), " object has no element slice"));
}

absl::StatusOr<std::vector<Value>> Iterate(const Value& value, Arena* arena) {
  std::vector<Value> items;
  switch (value.kind) {
    case Kind::kUndefined:
      break;
    case Kind::kList:
      items = value.list->items;
      break;
    case Kind::kDict:
      for (const auto& [key, item] : value.dict->entries) items.push_back(key);
      break;
    case Kind::kString: {
      const std::vector<size_t> offsets = CharOffsets(value.text());
      CLAMOR_RETURN_IF_ERROR(CheckItemCount(offsets.size() - 1));
      for (size_t i = 0; i + 1 < offsets.size(); ++i) {
        items.push_back(arena->String(value.string->Slice(offsets[i], offsets[i + 1])));
      }
      break;
    }
    default:
      return absl::InvalidArgumentError(absl::StrCat("'", TypeName(value), "' object is not iterable"));
  }
  CLAMOR_RETURN_IF_ERROR(arena->Spend(1 + items.size() / 16));
  return items;
}

absl::StatusOr<int64_t> Length(const Value& value) {
  switch (value.kind) {
    case Kind::kUndefined:
      return 0;
    case Kind::kString:
      return static_cast<int64_t>(CountChars(value.text()));
    case Kind::kList:
      return static_cast<int64_t>(value.list->items.size());
    case Kind::kDict:
      return static_cast<int64_t>(value.dict->entries.size());
    default:
      return absl::InvalidArgumentError(absl::StrCat("object of type '", TypeName(value), "' has no len()"));
  }
}

}  // namespace clamor::jinja
