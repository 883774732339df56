#include "model/tokenizer/jinja/print.h"

#include <utf8proc.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/status_macros.h"
#include "model/tokenizer/utf8.h"

namespace clamor::jinja {
namespace {

using Kind = Value::Kind;

// As Python writes it: the shortest digits that read back the same, plain from 1e-4 to below 1e16, never
// without a point.
std::string FloatText(double number) {
  char buffer[64];
  const bool plain = number == 0 || (std::abs(number) >= 1e-4 && std::abs(number) < 1e16);
  const auto format = plain ? std::chars_format::fixed : std::chars_format::scientific;
  std::string text(buffer, std::to_chars(buffer, buffer + sizeof(buffer), number, format).ptr);
  return plain && text.find('.') == std::string::npos ? text + ".0" : text;
}

bool IsPrintable(uint32_t code) {
  if (code == ' ') return true;
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(code));
  return category != UTF8PROC_CATEGORY_CN && category < UTF8PROC_CATEGORY_ZS;
}

void AppendRepr(const MarkedText& text, MarkedText* out) {
  const bool has_single = text.text().find('\'') != std::string::npos;
  const char quote = has_single && text.text().find('"') == std::string::npos ? '"' : '\'';
  out->Append(std::string(1, quote));
  size_t at = 0;
  ForEachChar(text.text(), [&](uint32_t code, std::string_view part) {
    std::string escaped(part);
    if (code == '\\' || code == static_cast<unsigned char>(quote)) {
      escaped.insert(escaped.begin(), '\\');
    } else if (code == '\n') {
      escaped = "\\n";
    } else if (code == '\r') {
      escaped = "\\r";
    } else if (code == '\t') {
      escaped = "\\t";
    } else if (!IsPrintable(code)) {
      escaped = code < 0x100     ? absl::StrFormat("\\x%02x", code)
                : code < 0x10000 ? absl::StrFormat("\\u%04x", code)
                                 : absl::StrFormat("\\U%08x", code);
    }
    out->Append(escaped, text.AnyMarked(at, at + part.size()));
    at += part.size();
  });
  out->Append(std::string(1, quote));
}

// Everything but strings, lists and dicts, whose text is the same inside and outside of lists.
std::string ScalarText(const Value& value) {
  switch (value.kind) {
    case Kind::kNone:
      return "None";
    case Kind::kBool:
      return value.boolean ? "True" : "False";
    case Kind::kInt:
      return absl::StrCat(value.integer);
    case Kind::kFloat:
      if (std::isfinite(value.number)) return FloatText(value.number);
      return std::isnan(value.number) ? "nan" : value.number > 0 ? "inf" : "-inf";
    case Kind::kLoop:
      return "<loop>";
    case Kind::kFunction:
      return absl::StrCat("<function ", value.function->name, ">");
    default:
      return "";
  }
}

absl::Status CheckDepth(int depth) {
  if (depth <= kMaxValueDepth) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("a value nested deeper than ", kMaxValueDepth, " levels"));
}

absl::Status AppendValueRepr(const Value& value, int depth, MarkedText* out) {
  CLAMOR_RETURN_IF_ERROR(CheckDepth(depth));
  CLAMOR_RETURN_IF_ERROR(CheckStringSize(out->size()));
  if (value.Is(Kind::kString)) {
    AppendRepr(*value.string, out);
  } else if (value.Is(Kind::kList)) {
    const auto& [items, tuple] = *value.list;
    out->Append(tuple ? "(" : "[");
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out->Append(", ");
      CLAMOR_RETURN_IF_ERROR(AppendValueRepr(items[i], depth + 1, out));
    }
    if (tuple && items.size() == 1) out->Append(",");
    out->Append(tuple ? ")" : "]");
  } else if (value.Is(Kind::kDict) || value.Is(Kind::kNamespace)) {
    const Dict& dict = value.Is(Kind::kDict) ? *value.dict : *value.fields;
    out->Append(value.Is(Kind::kDict) ? "{" : "<Namespace {");
    for (size_t i = 0; i < dict.entries.size(); ++i) {
      if (i > 0) out->Append(", ");
      CLAMOR_RETURN_IF_ERROR(AppendValueRepr(dict.entries[i].first, depth + 1, out));
      out->Append(": ");
      CLAMOR_RETURN_IF_ERROR(AppendValueRepr(dict.entries[i].second, depth + 1, out));
    }
    out->Append(value.Is(Kind::kDict) ? "}" : "}>");
  } else {
    out->Append(value.Is(Kind::kUndefined) ? "Undefined" : ScalarText(value));
  }
  return CheckStringSize(out->size());
}

std::string JsonEscape(uint32_t code, std::string_view part, bool ensure_ascii) {
  switch (code) {
    case '"':
      return "\\\"";
    case '\\':
      return "\\\\";
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    case '\b':
      return "\\b";
    case '\f':
      return "\\f";
    default:
      break;
  }
  if (code >= 0x10000 && ensure_ascii) {
    return absl::StrFormat("\\u%04x\\u%04x", 0xD7C0 + (code >> 10), 0xDC00 + (code & 0x3FF));
  }
  if (code < 0x20 || (code >= 0x7F && ensure_ascii)) return absl::StrFormat("\\u%04x", code);
  return std::string(part);
}

class JsonPrinter {
 public:
  JsonPrinter(const JsonOptions& options, MarkedText* out) : options_(options), out_(out) {}

  absl::Status Print(const Value& value, int depth) {
    CLAMOR_RETURN_IF_ERROR(CheckDepth(depth));
    CLAMOR_RETURN_IF_ERROR(CheckStringSize(out_->size()));
    switch (value.kind) {
      case Kind::kNone:
        out_->Append("null");
        break;
      case Kind::kBool:
        out_->Append(value.boolean ? "true" : "false");
        break;
      case Kind::kInt:
        out_->Append(absl::StrCat(value.integer));
        break;
      case Kind::kFloat:
        out_->Append(FloatJson(value.number));
        break;
      case Kind::kString:
        String(*value.string);
        break;
      case Kind::kList:
        return PrintList(*value.list, depth);
      case Kind::kDict:
        return PrintDict(*value.dict, depth);
      default:
        return absl::InvalidArgumentError(
            absl::StrCat("Object of type ", TypeName(value), " is not JSON serializable"));
    }
    return absl::OkStatus();
  }

 private:
  static std::string FloatJson(double number) {
    if (std::isfinite(number)) return FloatText(number);
    return std::isnan(number) ? "NaN" : number > 0 ? "Infinity" : "-Infinity";
  }

  void String(const MarkedText& text) {
    out_->Append("\"");
    size_t at = 0;
    ForEachChar(text.text(), [&](uint32_t code, std::string_view part) {
      out_->Append(JsonEscape(code, part, options_.ensure_ascii), text.AnyMarked(at, at + part.size()));
      at += part.size();
    });
    out_->Append("\"");
  }

  absl::Status NewLine(int depth) {
    if (!options_.indent.has_value()) return absl::OkStatus();
    out_->Append("\n");
    for (int i = 0; i < depth; ++i) {
      out_->Append(*options_.indent);
      CLAMOR_RETURN_IF_ERROR(CheckStringSize(out_->size()));
    }
    return absl::OkStatus();
  }

  absl::Status PrintList(const List& list, int depth) {
    out_->Append("[");
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) out_->Append(options_.item_separator);
      CLAMOR_RETURN_IF_ERROR(NewLine(depth + 1));
      CLAMOR_RETURN_IF_ERROR(Print(list.items[i], depth + 1));
    }
    if (!list.items.empty()) CLAMOR_RETURN_IF_ERROR(NewLine(depth));
    out_->Append("]");
    return absl::OkStatus();
  }

  absl::Status PrintDict(const Dict& dict, int depth) {
    std::vector<std::pair<Value, Value>> entries = dict.entries;
    if (options_.sort_keys) {
      std::sort(entries.begin(), entries.end(),
                [](const auto& a, const auto& b) { return a.first.text() < b.first.text(); });
    }
    out_->Append("{");
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) out_->Append(options_.item_separator);
      CLAMOR_RETURN_IF_ERROR(NewLine(depth + 1));
      String(*entries[i].first.string);
      out_->Append(options_.key_separator);
      CLAMOR_RETURN_IF_ERROR(Print(entries[i].second, depth + 1));
    }
    if (!entries.empty()) CLAMOR_RETURN_IF_ERROR(NewLine(depth));
    out_->Append("}");
    return absl::OkStatus();
  }

  const JsonOptions& options_;
  MarkedText* out_;
};

}  // namespace

absl::Status AppendStr(const Value& value, MarkedText* out) {
  if (value.Is(Kind::kUndefined)) return absl::OkStatus();
  if (!value.Is(Kind::kString)) return AppendValueRepr(value, 0, out);
  CLAMOR_RETURN_IF_ERROR(CheckStringSize(out->size() + value.string->size()));
  out->Append(*value.string);
  return absl::OkStatus();
}

absl::StatusOr<MarkedText> ToStr(const Value& value) {
  MarkedText text;
  CLAMOR_RETURN_IF_ERROR(AppendStr(value, &text));
  return text;
}

absl::StatusOr<MarkedText> ToJson(const Value& value, const JsonOptions& options) {
  MarkedText out;
  CLAMOR_RETURN_IF_ERROR(JsonPrinter(options, &out).Print(value, 0));
  CLAMOR_RETURN_IF_ERROR(CheckStringSize(out.size()));
  return out;
}

const char* TypeName(const Value& value) {
  switch (value.kind) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return "str";
    case Kind::kList:
      return value.list->tuple ? "tuple" : "list";
    case Kind::kDict:
      return "dict";
    case Kind::kNamespace:
      return "Namespace";
    case Kind::kLoop:
      return "LoopContext";
    case Kind::kFunction:
      return "function";
  }
  return "";
}

}  // namespace clamor::jinja
