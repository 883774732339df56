#include <charconv>
#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "model/tokenizer/jinja/filters.h"
#include "model/tokenizer/jinja/operators.h"
#include "model/tokenizer/jinja/print.h"
#include "model/tokenizer/jinja/subscript.h"
#include "model/tokenizer/jinja/text.h"

namespace clamor::jinja {
namespace {

using Kind = Value::Kind;

const Value& Input(const Args& args) { return args.positional[0]; }

// The input as text, whatever it is; counted as work.
absl::StatusOr<MarkedText> InputText(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(MarkedText text, ToStr(Input(args)));
  CLAMOR_RETURN_IF_ERROR(arena->SpendOnText(text.size()));
  return text;
}

template <auto kMap>
absl::StatusOr<Value> MapText(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(const MarkedText text, InputText(args, arena));
  return arena->String(kMap(text));
}

absl::StatusOr<Value> Trim(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(const auto chars, TextArg(args, 1));
  CLAMOR_ASSIGN_OR_RETURN(const MarkedText text, InputText(args, arena));
  CLAMOR_ASSIGN_OR_RETURN(MarkedText trimmed, Strip(text, chars, Sides::kBoth));
  return arena->String(std::move(trimmed));
}

absl::StatusOr<Value> ReplaceFilter(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(const MarkedText text, InputText(args, arena));
  CLAMOR_ASSIGN_OR_RETURN(const MarkedText from, ToStr(args.positional[1]));
  CLAMOR_ASSIGN_OR_RETURN(const MarkedText to, ToStr(args.positional[2]));
  CLAMOR_ASSIGN_OR_RETURN(const int64_t limit, IntArg(args, 3, -1));
  CLAMOR_ASSIGN_OR_RETURN(MarkedText out, Replace(text, from.text(), to, limit));
  return arena->String(std::move(out));
}

// What one level is indented by: a text, or a number of spaces.
absl::StatusOr<MarkedText> Indention(const Args& args, size_t index, int64_t fallback) {
  if (args.positional[index].Is(Kind::kString)) return *args.positional[index].string;
  CLAMOR_ASSIGN_OR_RETURN(const int64_t width, IntArg(args, index, fallback));
  return Repeat(MarkedText(" "), width);
}

absl::StatusOr<Value> Indent(const Args& args, Arena* arena) {
  CLAMOR_ASSIGN_OR_RETURN(MarkedText text, InputText(args, arena));
  CLAMOR_ASSIGN_OR_RETURN(const MarkedText indention, Indention(args, 1, 4));
  const bool blank_too = BoolArg(args, 3);
  text.Append("\n");  // as Jinja does: the last line counts even if it is empty
  CLAMOR_ASSIGN_OR_RETURN(const auto lines, SplitLines(text));
  MarkedText out;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out.Append("\n");
    const bool indents = i == 0 ? BoolArg(args, 2) : blank_too || !lines[i].empty();
    if (indents) out.Append(indention);
    out.Append(lines[i]);
    CLAMOR_RETURN_IF_ERROR(CheckStringSize(out.size()));
  }
  return arena->String(std::move(out));
}

absl::StatusOr<Value> AsString(const Args& args, Arena* arena) {
  if (Input(args).Is(Kind::kString)) return Input(args);
  CLAMOR_ASSIGN_OR_RETURN(MarkedText text, ToStr(Input(args)));
  return arena->String(std::move(text));
}

absl::StatusOr<Value> Default(const Args& args, Arena* arena) {
  const bool wanted = Input(args).Is(Kind::kUndefined) || (BoolArg(args, 2) && !Truthy(Input(args)));
  if (!wanted) return Input(args);
  return args.positional[1].IsAbsent() ? arena->String("") : args.positional[1];
}

// The number that a text spells, between white space.
std::optional<double> ParseFloat(const std::string& text) {
  double number = 0;
  if (!absl::SimpleAtod(text, &number)) return std::nullopt;
  return number;
}

std::optional<int64_t> Truncated(double number) {
  if (!(std::abs(number) < 9.2e18)) return std::nullopt;
  return static_cast<int64_t>(number);
}

absl::StatusOr<Value> ToInt(const Args& args, Arena*) {
  const Value fallback = args.positional[1].IsAbsent() ? Value::Int(0) : args.positional[1];
  CLAMOR_ASSIGN_OR_RETURN(const int64_t base, IntArg(args, 2, 10));
  std::optional<int64_t> result;
  switch (Input(args).kind) {
    case Kind::kUndefined:
      return UndefinedError(Input(args));
    case Kind::kBool:
      result = Input(args).boolean ? 1 : 0;
      break;
    case Kind::kInt:
      result = Input(args).integer;
      break;
    case Kind::kFloat:
      result = Truncated(Input(args).number);
      break;
    case Kind::kString: {
      if (base < 2 || base > 36) return absl::InvalidArgumentError(absl::StrCat("int: base ", base));
      CLAMOR_ASSIGN_OR_RETURN(const MarkedText stripped,
                              Strip(*Input(args).string, std::nullopt, Sides::kBoth));
      std::string_view digits = stripped.text();
      if (digits.starts_with('+') && !digits.starts_with("+-")) digits.remove_prefix(1);
      int64_t parsed = 0;
      const char* end = digits.data() + digits.size();
      const auto [stop, error] = std::from_chars(digits.data(), end, parsed, static_cast<int>(base));
      if (error == std::errc() && stop == end) {
        result = parsed;
      } else if (const auto number = ParseFloat(stripped.text())) {
        result = Truncated(*number);
      }
      break;
    }
    default:
      break;
  }
  return result.has_value() ? Value::Int(*result) : fallback;
}

absl::StatusOr<Value> ToFloat(const Args& args, Arena*) {
  switch (Input(args).kind) {
    case Kind::kUndefined:
      return UndefinedError(Input(args));
    case Kind::kBool:
      return Value::Float(Input(args).boolean ? 1 : 0);
    case Kind::kInt:
      return Value::Float(static_cast<double>(Input(args).integer));
    case Kind::kFloat:
      return Input(args);
    case Kind::kString:
      if (const auto number = ParseFloat(Input(args).text())) return Value::Float(*number);
      break;
    default:
      break;
  }
  return args.positional[1].IsAbsent() ? Value::Float(0) : args.positional[1];
}

absl::StatusOr<Value> Abs(const Args& args, Arena*) {
  if (Input(args).Is(Kind::kFloat)) return Value::Float(std::abs(Input(args).number));
  const bool negative = Input(args).Is(Kind::kInt) && Input(args).integer < 0;
  if (negative || !(Input(args).Is(Kind::kInt) || Input(args).Is(Kind::kBool))) return Negate(Input(args));
  return Input(args);
}

absl::StatusOr<Value> Round(const Args& args, Arena*) {
  constexpr int64_t kMaxPrecision = 300;
  CLAMOR_ASSIGN_OR_RETURN(const int64_t precision, IntArg(args, 1, 0));
  CLAMOR_ASSIGN_OR_RETURN(const auto method, TextArg(args, 2));
  if (precision < 0 || precision > kMaxPrecision) {
    return absl::InvalidArgumentError(
        absl::StrCat("round: precision ", precision, ", limit is ", kMaxPrecision));
  }
  const std::string how = method.value_or("common");
  if (how == "common" && Input(args).Is(Kind::kInt)) return Input(args);
  CLAMOR_ASSIGN_OR_RETURN(const Value number, ToFloat({.positional = {Input(args), Value::None()}}, nullptr));
  if (!number.Is(Kind::kFloat) || Input(args).Is(Kind::kString)) {
    return absl::InvalidArgumentError(absl::StrCat("round of type '", TypeName(Input(args)), "'"));
  }
  if (how == "common") {  // the nearest decimal, exactly
    char buffer[1024];
    const auto written = std::to_chars(buffer, buffer + sizeof(buffer), number.number,
                                       std::chars_format::fixed, static_cast<int>(precision));
    const auto rounded = ParseFloat(std::string(buffer, written.ptr));
    return Value::Float(rounded.value_or(number.number));
  }
  const double scale = std::pow(10.0, static_cast<double>(precision));
  if (how == "ceil") return Value::Float(std::ceil(number.number * scale) / scale);
  if (how == "floor") return Value::Float(std::floor(number.number * scale) / scale);
  return absl::InvalidArgumentError(
      absl::StrCat("round: method '", how, "', expected common, ceil or floor"));
}

// transformers' own: nothing is escaped for HTML.
absl::StatusOr<Value> ToJsonFilter(const Args& args, Arena* arena) {
  JsonOptions options;
  options.ensure_ascii = BoolArg(args, 1);
  options.sort_keys = BoolArg(args, 4);
  const Value& indent = args.positional[2];
  if (!indent.IsAbsent() && !indent.Is(Kind::kNone)) {
    CLAMOR_ASSIGN_OR_RETURN(const MarkedText indention, Indention(args, 2, 0));
    options.indent = indention.text();
    options.item_separator = std::string(1, ',');
  }
  if (const Value& separators = args.positional[3]; separators.Is(Kind::kList)) {
    if (separators.list->items.size() != 2)
      return absl::InvalidArgumentError("tojson: separators must be two");
    CLAMOR_ASSIGN_OR_RETURN(const MarkedText item, ToStr(separators.list->items[0]));
    CLAMOR_ASSIGN_OR_RETURN(const MarkedText key, ToStr(separators.list->items[1]));
    options.item_separator = item.text();
    options.key_separator = key.text();
  }
  CLAMOR_ASSIGN_OR_RETURN(MarkedText json, ToJson(Input(args), options));
  CLAMOR_RETURN_IF_ERROR(arena->SpendOnText(json.size()));
  return arena->String(std::move(json));
}

absl::StatusOr<Value> LengthFilter(const Args& args, Arena* arena) {
  if (Input(args).Is(Kind::kString)) CLAMOR_RETURN_IF_ERROR(arena->SpendOnText(Input(args).string->size()));
  CLAMOR_ASSIGN_OR_RETURN(const int64_t length, Length(Input(args)));
  return Value::Int(length);
}

constexpr Builtin kFilters[] = {
    {"abs", "", Abs},
    {"capitalize", "", MapText<Capitalize>},
    {"count", "", LengthFilter},
    {"d", "default_value,boolean", Default},
    {"default", "default_value,boolean", Default},
    {"float", "default", ToFloat},
    {"indent", "width,first,blank", Indent},
    {"int", "default,base", ToInt},
    {"length", "", LengthFilter},
    {"lower", "", MapText<Lower>},
    {"replace", "old!,new!,count", ReplaceFilter},
    {"round", "precision,method", Round},
    {"safe", "", AsString},  // nothing is escaped, so all text is safe
    {"string", "", AsString},
    {"title", "", MapText<TitleWords>},
    {"tojson", "ensure_ascii,indent,separators,sort_keys", ToJsonFilter},
    {"trim", "chars", Trim},
    {"upper", "", MapText<Upper>},
};

}  // namespace

std::span<const Builtin> ScalarFilters() { return kFilters; }

const Builtin* FindFilter(std::string_view name) {
  const Builtin* filter = FindBuiltin(ScalarFilters(), name);
  return filter != nullptr ? filter : FindBuiltin(ListFilters(), name);
}

}  // namespace clamor::jinja
