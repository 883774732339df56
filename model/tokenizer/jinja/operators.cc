#include "model/tokenizer/jinja/operators.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "model/tokenizer/jinja/print.h"
#include "model/tokenizer/jinja/text.h"

namespace clamor::jinja {
namespace {

using Kind = Value::Kind;

absl::Status TypeError(std::string_view op, const Value& left, const Value& right) {
  if (left.Is(Kind::kUndefined)) return UndefinedError(left);
  if (right.Is(Kind::kUndefined)) return UndefinedError(right);
  return absl::InvalidArgumentError(absl::StrCat("unsupported operand type(s) for ", std::string(op), ": '",
                                                 TypeName(left), "' and '", TypeName(right), "'"));
}

std::optional<double> AsNumber(const Value& value) {
  if (value.Is(Kind::kFloat)) return value.number;
  if (const auto integer = AsInt(value)) return static_cast<double>(*integer);
  return std::nullopt;
}

absl::StatusOr<int64_t> IntPower(int64_t base, int64_t exponent) {
  int64_t result = 1;
  for (int64_t i = 0; i < exponent; ++i) {
    if (__builtin_mul_overflow(result, base, &result))
      return absl::InvalidArgumentError("integer out of range");
    if (result == 0 || result == 1) break;
    if (result == -1 && base == -1) return (exponent % 2 == 0) ? 1 : -1;
  }
  return result;
}

// // and % round towards minus infinity.
absl::StatusOr<Value> IntArithmetic(std::string_view op, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  if (op == "+") {
    overflow = __builtin_add_overflow(a, b, &result);
  } else if (op == "-") {
    overflow = __builtin_sub_overflow(a, b, &result);
  } else if (op == "*") {
    overflow = __builtin_mul_overflow(a, b, &result);
  } else if (op == "**") {
    if (b < 0) return Value::Float(std::pow(static_cast<double>(a), static_cast<double>(b)));
    CLAMOR_ASSIGN_OR_RETURN(result, IntPower(a, b));
  } else if (b == 0) {
    return absl::InvalidArgumentError("division by zero");
  } else if (op == "/") {
    return Value::Float(static_cast<double>(a) / static_cast<double>(b));
  } else if (a == INT64_MIN && b == -1) {
    overflow = true;
  } else {
    const int64_t remainder = a % b;
    const bool towards_zero = remainder != 0 && (remainder < 0) != (b < 0);
    result = op == "//" ? a / b - (towards_zero ? 1 : 0) : remainder + (towards_zero ? b : 0);
  }
  if (overflow) return absl::InvalidArgumentError("integer out of range");
  return Value::Int(result);
}

absl::StatusOr<Value> FloatArithmetic(std::string_view op, double a, double b) {
  if (op == "+") return Value::Float(a + b);
  if (op == "-") return Value::Float(a - b);
  if (op == "*") return Value::Float(a * b);
  if (op == "**") return Value::Float(std::pow(a, b));
  if (b == 0) return absl::InvalidArgumentError("division by zero");
  if (op == "/") return Value::Float(a / b);
  const double quotient = std::floor(a / b);
  return Value::Float(op == "//" ? quotient : a - quotient * b);
}

absl::StatusOr<Value> Concat(const Value& left, const Value& right, Arena* arena) {
  MarkedText text;
  CLAMOR_RETURN_IF_ERROR(AppendStr(left, &text));
  CLAMOR_RETURN_IF_ERROR(AppendStr(right, &text));
  return arena->String(std::move(text));
}

absl::StatusOr<Value> RepeatList(const List& list, int64_t times, Arena* arena) {
  std::vector<Value> items;
  if (times > 0 && !list.items.empty()) {
    const auto wanted = static_cast<double>(times) * static_cast<double>(list.items.size());
    CLAMOR_RETURN_IF_ERROR(CheckItemCount(wanted > kMaxItems ? kMaxItems + 1 : 0));
    for (int64_t i = 0; i < times; ++i) items.insert(items.end(), list.items.begin(), list.items.end());
  }
  return arena->NewList(std::move(items), list.tuple);
}

absl::StatusOr<bool> EqualAt(const Value& left, const Value& right, int depth, Arena* arena) {
  CLAMOR_RETURN_IF_ERROR(arena->Spend(1));
  if (depth > kMaxValueDepth) return absl::ResourceExhaustedError("values nested too deep to compare");
  const auto a = AsNumber(left);
  const auto b = AsNumber(right);
  if (a.has_value() && b.has_value()) {
    const auto i = AsInt(left);
    const auto j = AsInt(right);
    return i.has_value() && j.has_value() ? *i == *j : *a == *b;
  }
  if (left.kind != right.kind) return false;
  switch (left.kind) {
    case Kind::kString:
      CLAMOR_RETURN_IF_ERROR(arena->SpendOnText(left.string->size()));
      return left.text() == right.text();
    case Kind::kList: {
      const auto& x = left.list->items;
      const auto& y = right.list->items;
      if (x.size() != y.size() || left.list->tuple != right.list->tuple) return false;
      for (size_t i = 0; i < x.size(); ++i) {
        CLAMOR_ASSIGN_OR_RETURN(const bool equal, EqualAt(x[i], y[i], depth + 1, arena));
        if (!equal) return false;
      }
      return true;
    }
    case Kind::kDict: {
      if (left.dict->entries.size() != right.dict->entries.size()) return false;
      for (const auto& [key, value] : left.dict->entries) {
        const Value* other = right.dict->Find(key.text());
        if (other == nullptr) return false;
        CLAMOR_ASSIGN_OR_RETURN(const bool equal, EqualAt(value, *other, depth + 1, arena));
        if (!equal) return false;
      }
      return true;
    }
    case Kind::kNamespace:
      return left.fields == right.fields;
    case Kind::kLoop:
      return left.loop == right.loop;
    case Kind::kFunction:
      return left.function == right.function;
    default:
      return true;  // None, undefined
  }
}

absl::StatusOr<bool> Contains(const Value& container, const Value& item, Arena* arena) {
  switch (container.kind) {
    case Kind::kString:
      if (!item.Is(Kind::kString)) {
        if (item.Is(Kind::kUndefined)) return UndefinedError(item);
        return absl::InvalidArgumentError(
            absl::StrCat("'in <string>' requires string as left operand, not ", TypeName(item)));
      }
      CLAMOR_RETURN_IF_ERROR(arena->SpendOnText(container.string->size() + item.string->size()));
      return Find(container.text(), item.text()) != std::string_view::npos;
    case Kind::kList:
      for (const Value& candidate : container.list->items) {
        CLAMOR_ASSIGN_OR_RETURN(const bool equal, Equal(candidate, item, arena));
        if (equal) return true;
      }
      return false;
    case Kind::kDict:
      return item.Is(Kind::kString) && container.dict->Find(item.text()) != nullptr;
    case Kind::kUndefined:
      return false;
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("argument of type '", TypeName(container), "' is not iterable"));
  }
}

}  // namespace

absl::Status UndefinedError(const Value& value) {
  return absl::InvalidArgumentError(value.IsAbsent() ? "a required argument is missing" : *value.why);
}

std::optional<int64_t> AsInt(const Value& value) {
  if (value.Is(Kind::kBool)) return value.boolean ? 1 : 0;
  if (value.Is(Kind::kInt)) return value.integer;
  return std::nullopt;
}

bool Truthy(const Value& value) {
  switch (value.kind) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
      return value.boolean;
    case Kind::kInt:
      return value.integer != 0;
    case Kind::kFloat:
      return value.number != 0;
    case Kind::kString:
      return !value.string->empty();
    case Kind::kList:
      return !value.list->items.empty();
    case Kind::kDict:
      return !value.dict->entries.empty();
    case Kind::kNamespace:
    case Kind::kLoop:
    case Kind::kFunction:
      break;
  }
  return true;
}

absl::StatusOr<Value> Arithmetic(std::string_view op, const Value& left, const Value& right, Arena* arena) {
  if (op == "~") return Concat(left, right, arena);
  const auto i = AsInt(left);
  const auto j = AsInt(right);
  if (i.has_value() && j.has_value()) return IntArithmetic(op, *i, *j);
  const auto a = AsNumber(left);
  const auto b = AsNumber(right);
  if (a.has_value() && b.has_value()) return FloatArithmetic(op, *a, *b);
  if (op == "+" && left.Is(Kind::kString) && right.Is(Kind::kString)) return Concat(left, right, arena);
  if (op == "+" && left.Is(Kind::kList) && right.Is(Kind::kList) && left.list->tuple == right.list->tuple) {
    std::vector<Value> items = left.list->items;
    items.insert(items.end(), right.list->items.begin(), right.list->items.end());
    CLAMOR_RETURN_IF_ERROR(CheckItemCount(items.size()));
    return arena->NewList(std::move(items), left.list->tuple);
  }
  if (op == "*" && (i.has_value() || j.has_value())) {
    const Value& sequence = i.has_value() ? right : left;
    const int64_t times = i.has_value() ? *i : *j;
    if (sequence.Is(Kind::kList)) return RepeatList(*sequence.list, times, arena);
    if (sequence.Is(Kind::kString)) {
      CLAMOR_ASSIGN_OR_RETURN(MarkedText text, Repeat(*sequence.string, times));
      return arena->String(std::move(text));
    }
  }
  return TypeError(op, left, right);
}

absl::StatusOr<Value> Negate(const Value& value) {
  if (const auto integer = AsInt(value)) return IntArithmetic("-", 0, *integer);
  if (value.Is(Kind::kFloat)) return Value::Float(-value.number);
  if (value.Is(Kind::kUndefined)) return UndefinedError(value);
  return absl::InvalidArgumentError(absl::StrCat("bad operand type for unary -: '", TypeName(value), "'"));
}

absl::StatusOr<bool> Equal(const Value& left, const Value& right, Arena* arena) {
  return EqualAt(left, right, 0, arena);
}

absl::StatusOr<bool> Less(const Value& left, const Value& right, Arena* arena) {
  const auto a = AsNumber(left);
  const auto b = AsNumber(right);
  if (a.has_value() && b.has_value()) return *a < *b;
  if (left.Is(Kind::kString) && right.Is(Kind::kString)) {
    CLAMOR_RETURN_IF_ERROR(arena->SpendOnText(left.string->size()));
    return left.text() < right.text();
  }
  if (left.Is(Kind::kList) && right.Is(Kind::kList)) {
    const auto& x = left.list->items;
    const auto& y = right.list->items;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      CLAMOR_ASSIGN_OR_RETURN(const bool equal, Equal(x[i], y[i], arena));
      // Items of a list in a list have no order here, which keeps this from recursing.
      if (!equal && x[i].Is(Kind::kList)) return TypeError("<", x[i], y[i]);
      if (!equal) return Less(x[i], y[i], arena);
    }
    return x.size() < y.size();
  }
  return TypeError("<", left, right);
}

absl::StatusOr<bool> Compare(std::string_view op, const Value& left, const Value& right, Arena* arena) {
  if (op == "==") return Equal(left, right, arena);
  if (op == "<") return Less(left, right, arena);
  if (op == ">") return Less(right, left, arena);
  if (op == "in") return Contains(right, left, arena);
  if (op == "!=" || op == "not in") {
    CLAMOR_ASSIGN_OR_RETURN(const bool holds, Compare(op == "!=" ? "==" : "in", left, right, arena));
    return !holds;
  }
  // <= and >=; not the negation of the other, for nan compares with nothing.
  CLAMOR_ASSIGN_OR_RETURN(const bool less, Compare(op.substr(0, 1), left, right, arena));
  if (less) return true;
  return Equal(left, right, arena);
}

}  // namespace clamor::jinja
