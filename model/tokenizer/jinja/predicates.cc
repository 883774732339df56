#include "model/tokenizer/jinja/predicates.h"

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "model/tokenizer/jinja/filters.h"
#include "model/tokenizer/jinja/operators.h"
#include "model/tokenizer/jinja/print.h"
#include "model/tokenizer/jinja/text.h"

namespace clamor::jinja {
namespace {

using Kind = Value::Kind;

const Value& Input(const Args& args) { return args.positional[0]; }

template <Kind... kKinds>
absl::StatusOr<Value> IsKind(const Args& args, Arena*) {
  return Value::Bool((Input(args).Is(kKinds) || ...));
}

absl::StatusOr<Value> IsDefined(const Args& args, Arena*) {
  return Value::Bool(!Input(args).Is(Kind::kUndefined));
}

template <bool kTruth>
absl::StatusOr<Value> IsTruth(const Args& args, Arena*) {
  return Value::Bool(Input(args).Is(Kind::kBool) && Input(args).boolean == kTruth);
}

// {"eq", "<"}: the operator is what the test is called by in operators.h.
template <char kFirst, char kSecond = '\0'>
absl::StatusOr<Value> IsCompared(const Args& args, Arena* arena) {
  constexpr char kOp[] = {kFirst, kSecond, '\0'};
  CLAMOR_ASSIGN_OR_RETURN(const bool holds, Compare(kOp, Input(args), args.positional[1], arena));
  return Value::Bool(holds);
}

// The remainder of the input by the argument, or by `fallback`.
absl::StatusOr<Value> Remainder(const Args& args, const Value& divisor, Arena* arena) {
  return Arithmetic("%", Input(args), divisor, arena);
}
absl::StatusOr<Value> IsOdd(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(const Value remainder, Remainder(args, Value::Int(2), arena));
  return Value::Bool(Truthy(remainder));
}
absl::StatusOr<Value> IsEven(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(const Value remainder, Remainder(args, Value::Int(2), arena));
  return Value::Bool(!Truthy(remainder));
}
absl::StatusOr<Value> IsDivisible(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(const Value remainder, Remainder(args, args.positional[1], arena));
  return Value::Bool(!Truthy(remainder));
}

// Whether `map` leaves the text alone and it has letters at all.
template <auto kMap, auto kOther>
absl::StatusOr<Value> IsCased(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(const MarkedText text, ToStr(Input(args)));
  CLAMOR_RETURN_IF_ERROR(arena->SpendOnText(text.size()));
  return Value::Bool(kMap(text).text() == text.text() && kOther(text).text() != text.text());
}

absl::StatusOr<Value> IsSame(const Args& args, Arena* arena) {
  if (Input(args).kind != args.positional[1].kind) return Value::Bool(false);
  CLAMOR_ASSIGN_OR_RETURN(const bool equal, Equal(Input(args), args.positional[1], arena));
  return Value::Bool(equal);
}

template <auto kFind>
absl::StatusOr<Value> IsKnown(const Args& args, Arena*) {
  return Value::Bool(Input(args).Is(Kind::kString) && kFind(Input(args).text()) != nullptr);
}

absl::StatusOr<Value> IsIn(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(const bool holds, Compare("in", Input(args), args.positional[1], arena));
  return Value::Bool(holds);
}

constexpr Builtin kTests[] = {
    {"!=", "other!", IsCompared<'!', '='>},
    {"<", "other!", IsCompared<'<'>},
    {"<=", "other!", IsCompared<'<', '='>},
    {"==", "other!", IsCompared<'=', '='>},
    {">", "other!", IsCompared<'>'>},
    {">=", "other!", IsCompared<'>', '='>},
    {"boolean", "", IsKind<Kind::kBool>},
    {"callable", "", IsKind<Kind::kFunction>},
    {"defined", "", IsDefined},
    {"divisibleby", "num!", IsDivisible},
    {"eq", "other!", IsCompared<'=', '='>},
    {"equalto", "other!", IsCompared<'=', '='>},
    {"even", "", IsEven},
    {"false", "", IsTruth<false>},
    {"filter", "", IsKnown<FindFilter>},
    {"float", "", IsKind<Kind::kFloat>},
    {"ge", "other!", IsCompared<'>', '='>},
    {"greaterthan", "other!", IsCompared<'>'>},
    {"gt", "other!", IsCompared<'>'>},
    {"in", "seq!", IsIn},
    {"integer", "", IsKind<Kind::kInt>},
    {"iterable", "", IsKind<Kind::kString, Kind::kList, Kind::kDict, Kind::kUndefined>},
    {"le", "other!", IsCompared<'<', '='>},
    {"lessthan", "other!", IsCompared<'<'>},
    {"lower", "", IsCased<Lower, Upper>},
    {"lt", "other!", IsCompared<'<'>},
    {"mapping", "", IsKind<Kind::kDict>},
    {"ne", "other!", IsCompared<'!', '='>},
    {"none", "", IsKind<Kind::kNone>},
    {"number", "", IsKind<Kind::kInt, Kind::kFloat, Kind::kBool>},
    {"odd", "", IsOdd},
    {"sameas", "other!", IsSame},
    {"sequence", "", IsKind<Kind::kString, Kind::kList, Kind::kDict, Kind::kUndefined>},
    {"string", "", IsKind<Kind::kString>},
    {"test", "", IsKnown<FindTest>},
    {"true", "", IsTruth<true>},
    {"undefined", "", IsKind<Kind::kUndefined>},
    {"upper", "", IsCased<Upper, Lower>},
};

}  // namespace

const Builtin* FindTest(std::string_view name) { return FindBuiltin(kTests, name); }

}  // namespace clamor::jinja
