#include "model/tokenizer/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "model/tokenizer/json_field.h"
#include "model/tokenizer/utf8.h"

namespace clamor {
namespace {

constexpr size_t kMaxRegexBytes = 16 << 10;

// Oniguruma's classes, written so that they also stand inside brackets.
constexpr char kSpace[] = "\\p{White_Space}";
constexpr char kNotSpace[] = "\\P{White_Space}";
constexpr char kWord[] = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";

absl::Status Unsupported(const std::string& construct) {
  return absl::InvalidArgumentError(absl::StrCat("regular expression: ", construct, " is not supported"));
}

// Rewrites Ruby's dialect into PCRE2's, one construct after the other.
class Translator {
 public:
  explicit Translator(std::string_view regex) : rest_(regex) {}

  absl::StatusOr<std::string> Run() {
    while (!rest_.empty()) {
      if (rest_[0] == '\\') {
        CLAMOR_RETURN_IF_ERROR(Escape());
      } else if (in_class()) {
        CLAMOR_RETURN_IF_ERROR(InClass());
      } else {
        CLAMOR_RETURN_IF_ERROR(OutsideClass());
      }
    }
    return std::move(out_);
  }

 private:
  bool in_class() const { return class_depth_ > 0; }

  void Copy(size_t n) {
    n = std::min(n, rest_.size());
    out_.append(rest_.substr(0, n));
    rest_.remove_prefix(n);
  }

  void Replace(size_t n, std::string_view text) {
    out_.append(text);
    rest_.remove_prefix(n);
  }

  absl::Status Escape() {
    const char kind = rest_.size() > 1 ? rest_[1] : '\0';
    const std::string word_class = absl::StrCat("[", kWord, "]");
    switch (kind) {
      case 's':
        Replace(2, kSpace);
        break;
      case 'S':
        Replace(2, kNotSpace);
        break;
      case 'w':
        Replace(2, in_class() ? kWord : word_class);
        break;
      case 'W':
        if (in_class()) return Unsupported("\\W in a character class");
        Replace(2, absl::StrCat("[^", kWord, "]"));
        break;
      case 'b':
      case 'B': {
        if (in_class()) return Copy(2), absl::OkStatus();
        const bool edge = kind == 'b';
        Replace(2, absl::StrCat("(?:(?<=", word_class, ")(?", edge ? "!" : "=", word_class, ")|(?<!",
                                word_class, ")(?", edge ? "=" : "!", word_class, "))"));
        break;
      }
      case 'u': {  // \uHHHH
        const std::string_view digits = rest_.substr(2, 4);
        const bool hex = digits.size() == 4 && std::all_of(digits.begin(), digits.end(), [](unsigned char c) {
                           return absl::ascii_isxdigit(c);
                         });
        if (!hex) return Unsupported("\\u without four hexadecimal digits");
        Replace(6, absl::StrCat("\\x{", std::string(digits), "}"));
        break;
      }
      case 'h':
      case 'H':
        return Unsupported(std::string(rest_.substr(0, 2)));
      case 'p':
      case 'P':
        Copy(rest_.substr(2, 1) == "{" ? std::min(rest_.find('}'), rest_.size() - 1) + 1 : 2);
        break;
      default:
        Copy(2);
    }
    return absl::OkStatus();
  }

  absl::Status InClass() {
    if (rest_.starts_with("[:")) {
      const size_t end = rest_.find(":]");
      Copy(end == std::string_view::npos ? rest_.size() : end + 2);
      return absl::OkStatus();
    }
    if (rest_.starts_with("&&")) return Unsupported("&& in a character class");
    if (rest_[0] == '[') {  // a class inside another adds its members
      if (rest_.starts_with("[^") || out_.ends_with('-')) return Unsupported("[^ or -[ in a character class");
      ++class_depth_;
      Replace(1, "");
      return absl::OkStatus();
    }
    if (rest_[0] == ']' && --class_depth_ > 0) {
      Replace(1, "");
      return absl::OkStatus();
    }
    Copy(1);
    return absl::OkStatus();
  }

  absl::Status OutsideClass() {
    if (rest_[0] == '[') {
      class_depth_ = 1;
      Copy(rest_.starts_with("[^]") ? 3 : rest_.starts_with("[^") || rest_.starts_with("[]") ? 2 : 1);
      return absl::OkStatus();
    }
    if (rest_.starts_with("(*")) return Unsupported("(*");
    if (rest_.starts_with("(?")) {
      for (size_t i = 2;
           i < rest_.size() && (absl::ascii_isalpha(static_cast<unsigned char>(rest_[i])) || rest_[i] == '-');
           ++i) {
        if (rest_[i] == 'm' || rest_[i] == 's') return Unsupported("inline option m or s");
      }
    }
    // The brace of \p{..} is copied with its escape, so this one closes an interval.
    if (rest_.starts_with("}+")) return Unsupported("+ after an interval");
    Copy(1);
    return absl::OkStatus();
  }

  std::string_view rest_;
  std::string out_;
  int class_depth_ = 0;  // brackets around this place
};

std::string Pcre2Message(int code) {
  PCRE2_UCHAR buffer[256] = {};
  pcre2_get_error_message(code, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

using CompileContext = std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)>;
using MatchContext = std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)>;
using MatchData = std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)>;

void FindLiteral(std::string_view text, std::string_view literal, std::vector<Pattern::Match>* matches) {
  for (size_t at = text.find(literal); at != std::string_view::npos;
       at = text.find(literal, at + literal.size())) {
    matches->push_back({at, at + literal.size()});
  }
}

}  // namespace

void Pattern::FreeCode::operator()(void* code) const { pcre2_code_free(static_cast<pcre2_code*>(code)); }

absl::StatusOr<Pattern> Pattern::FromJson(const nlohmann::json& owner, const std::string& path) {
  const nlohmann::json& field = Field(owner, "pattern");
  const std::string where = absl::StrCat(path, ".pattern");
  if (Field(field, "String").is_string()) {
    CLAMOR_ASSIGN_OR_RETURN(std::string literal, StringField(field, "String", where));
    if (literal.empty()) return UnexpectedValue(where, field, "a string that is not empty");
    return FromLiteral(std::move(literal));
  }
  if (!Field(field, "Regex").is_string())
    return UnexpectedValue(where, field, "{\"String\": ..} or {\"Regex\": ..}");
  CLAMOR_ASSIGN_OR_RETURN(const std::string regex, StringField(field, "Regex", where));
  absl::StatusOr<Pattern> pattern = FromRegex(regex);
  if (!pattern.ok())
    return UnexpectedValue(where, Field(field, "Regex"), std::string(pattern.status().message()));
  return pattern;
}

Pattern Pattern::FromLiteral(std::string literal) {
  Pattern pattern;
  pattern.source_ = std::move(literal);
  return pattern;
}

absl::StatusOr<Pattern> Pattern::FromRegex(std::string_view regex) {
  if (regex.size() > kMaxRegexBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("regular expression of ", regex.size(), " bytes, limit is ", kMaxRegexBytes));
  }
  CLAMOR_ASSIGN_OR_RETURN(std::string translated, Translator(regex).Run());
  // In Ruby ^ and $ match at every line.
  constexpr uint32_t kOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  const CompileContext context(pcre2_compile_context_create(nullptr), &pcre2_compile_context_free);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  Pattern pattern;
  pattern.code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                    kOptions, &error, &offset, context.get()));
  if (pattern.code_ == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("regular expression: ", Pcre2Message(error)));
  }
  // A machine without JIT runs the same program slower.
  pcre2_jit_compile(static_cast<pcre2_code*>(pattern.code_.get()), PCRE2_JIT_COMPLETE);
  pattern.source_ = std::string(regex);
  return pattern;
}

absl::Status Pattern::FindAll(std::string_view text, std::vector<Match>* matches) const {
  matches->clear();
  if (is_literal()) {
    FindLiteral(text, source_, matches);
    return absl::OkStatus();
  }
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const MatchData data(pcre2_match_data_create(1, nullptr), &pcre2_match_data_free);
  const MatchContext context(pcre2_match_context_create(nullptr), &pcre2_match_context_free);
  // Room to walk the text back and forth once for each branch of a sane pattern.
  pcre2_set_match_limit(context.get(),
                        static_cast<uint32_t>(1'000'000 + 64 * std::min(text.size(), size_t{16} << 20)));
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t from = 0;
  while (from <= text.size()) {
    uint32_t options = PCRE2_NO_UTF_CHECK;
    int found = pcre2_match(code, subject, text.size(), from, options, data.get(), context.get());
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) {  // the interpreter keeps its stack on the heap
      options |= PCRE2_NO_JIT;
      found = pcre2_match(code, subject, text.size(), from, options, data.get(), context.get());
    }
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) {
      return absl::ResourceExhaustedError(
          absl::StrCat("regular expression ", source_, " at byte ", from, ": ", Pcre2Message(found)));
    }
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(data.get());
    if (span[0] > span[1]) {  // \K inside a look-ahead
      return absl::InvalidArgumentError(absl::StrCat("regular expression ", source_, " matches backwards"));
    }
    const bool repeats_end = span[0] == span[1] && !matches->empty() && matches->back().end == span[1];
    if (!repeats_end) {
      matches->push_back({span[0], span[1]});
      from = span[1];
    } else {
      from += from < text.size() ? FirstChar(text.substr(from)).size : 1;
    }
  }
  return absl::OkStatus();
}

}  // namespace clamor
