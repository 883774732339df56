#include "model/tokenizer/jinja/lexer.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "kernels/status_macros.h"
#include "model/tokenizer/jinja/text.h"
#include "model/tokenizer/utf8.h"

namespace clamor::jinja {
namespace {

using Kind = Token::Kind;

bool IsNameStart(char c) { return c == '_' || absl::ascii_isalpha(static_cast<unsigned char>(c)); }
bool IsNameChar(char c) { return c == '_' || absl::ascii_isalnum(static_cast<unsigned char>(c)); }
bool IsDigit(char c) { return absl::ascii_isdigit(static_cast<unsigned char>(c)); }

std::string_view WithoutTrailingSpace(std::string_view text) {
  while (!text.empty()) {
    size_t last = text.size() - 1;
    while (last > 0 && (static_cast<unsigned char>(text[last]) & 0xC0) == 0x80) --last;
    if (!IsPythonSpace(FirstChar(text.substr(last)).code)) break;
    text = text.substr(0, last);
  }
  return text;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(source) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (at_ < source_.size()) {
      CLAMOR_RETURN_IF_ERROR(TextAndTag());
    }
    tokens_.push_back({Kind::kEnd, "", line_});
    return std::move(tokens_);
  }

 private:
  std::string_view Rest() const { return std::string_view(source_).substr(at_); }
  bool Looking(std::string_view text) const { return Rest().starts_with(text); }

  void Advance(size_t n) {
    line_ += static_cast<int>(std::count(source_.begin() + at_, source_.begin() + at_ + n, '\n'));
    at_ += n;
  }
  void SkipSpace() {
    while (at_ < source_.size() && IsPythonSpace(FirstChar(Rest()).code)) Advance(FirstChar(Rest()).size);
  }
  void Add(Kind kind, std::string_view text) { tokens_.push_back({kind, std::string(text), line_}); }

  // Where the next {%, {{ or {# stands.
  size_t NextTag() const {
    size_t at = at_;
    while ((at = source_.find('{', at)) != std::string::npos) {
      if (at + 1 < source_.size() && std::string_view("%{#").find(source_[at + 1]) != std::string_view::npos)
        return at;
      ++at;
    }
    return source_.size();
  }

  // Emits the text up to `end`, cut as the tag that begins there asks for by `sign` ('-', '+' or another).
  void AddText(size_t end, char sign, bool strips_line) {
    std::string_view text = std::string_view(source_).substr(at_, end - at_);
    if (sign == '-') {
      text = WithoutTrailingSpace(text);
    } else if (sign != '+' && strips_line) {
      const size_t newline = text.rfind('\n');
      const size_t line_begin = newline == std::string_view::npos ? 0 : newline + 1;
      if ((line_begin > 0 || at_line_start_) && WithoutTrailingSpace(text.substr(line_begin)).empty()) {
        text = text.substr(0, line_begin);
      }
    }
    if (!text.empty()) Add(Kind::kText, text);
    Advance(end - at_);
  }

  char SignAt(size_t at) const { return at < source_.size() ? source_[at] : '\0'; }

  absl::Status TextAndTag() {
    const size_t tag = NextTag();
    if (tag == source_.size()) {
      AddText(tag, '+', false);
      return absl::OkStatus();
    }
    const char kind = source_[tag + 1];
    const char sign = SignAt(tag + 2);
    AddText(tag, sign, /*strips_line=*/kind != '{');
    Advance(sign == '-' || sign == '+' ? 3 : 2);
    if (kind == '#') return Comment();
    if (kind == '%' && BeginsRaw()) return Raw();
    Add(kind == '%' ? Kind::kBlockBegin : Kind::kPrintBegin, "");
    return Expression(kind == '%');
  }

  // After the characters that end a tag: what follows is cut as `sign` before them asks for.
  void EndTag(char sign, bool trims_newline) {
    const size_t begin = at_;
    if (sign == '-') {
      SkipSpace();
    } else if (sign != '+' && trims_newline && Looking("\n")) {
      Advance(1);
    }
    at_line_start_ = at_ > begin && source_[at_ - 1] == '\n';
  }

  absl::Status Comment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) return ErrorAt(line_, "a comment {# that is not closed");
    const char sign = end > at_ ? source_[end - 1] : '\0';
    Advance(end + 2 - at_);
    EndTag(sign, /*trims_newline=*/true);
    return absl::OkStatus();
  }

  // Whether the tag is {% raw %}; then it is read.
  bool BeginsRaw() {
    std::string_view rest = Rest();
    const auto skip_space = [&rest] {
      while (!rest.empty() && absl::ascii_isspace(static_cast<unsigned char>(rest[0]))) rest.remove_prefix(1);
    };
    skip_space();
    if (!rest.starts_with("raw")) return false;
    rest.remove_prefix(3);
    skip_space();
    const bool strips = rest.starts_with("-%}");
    if (!strips && !rest.starts_with("%}")) return false;
    Advance(source_.size() - rest.size() - at_ + (strips ? 3 : 2));
    EndTag(strips ? '-' : '\0', /*trims_newline=*/false);
    return true;
  }

  absl::Status Raw() {
    for (size_t tag = at_; (tag = source_.find("{%", tag)) != std::string::npos; tag += 2) {
      const char sign = SignAt(tag + 2);
      size_t at = tag + (sign == '-' || sign == '+' ? 3 : 2);
      const auto skip_space = [&] {
        while (at < source_.size() && absl::ascii_isspace(static_cast<unsigned char>(source_[at]))) ++at;
      };
      skip_space();
      if (source_.compare(at, 6, "endraw") != 0) continue;
      at += 6;
      skip_space();
      const char end_sign = SignAt(at);
      if (end_sign == '-' || end_sign == '+') ++at;
      if (source_.compare(at, 2, "%}") != 0) continue;
      AddText(tag, sign, /*strips_line=*/true);
      Advance(at + 2 - at_);
      EndTag(end_sign, /*trims_newline=*/true);
      return absl::OkStatus();
    }
    return ErrorAt(line_, "raw without endraw");
  }

  // Reads tokens up to the end of the tag. Inside brackets }} and %} are two characters.
  absl::Status Expression(bool block) {
    const std::string_view closer = block ? "%}" : "}}";
    const int begin_line = line_;
    std::string open;
    while (true) {
      SkipSpace();
      if (at_ == source_.size())
        return ErrorAt(begin_line, absl::StrCat("a tag without ", std::string(closer)));
      const char sign = source_[at_];
      const bool signed_end = (sign == '-' || (sign == '+' && block)) && Rest().substr(1).starts_with(closer);
      if (open.empty() && (signed_end || Looking(closer))) {
        Add(block ? Kind::kBlockEnd : Kind::kPrintEnd, "");
        Advance(signed_end ? 3 : 2);
        EndTag(signed_end ? sign : '\0', /*trims_newline=*/block);
        return absl::OkStatus();
      }
      CLAMOR_RETURN_IF_ERROR(ExpressionToken(&open));
    }
  }

  absl::Status ExpressionToken(std::string* open) {
    const char c = source_[at_];
    if (c == '"' || c == '\'') return String();
    if (IsDigit(c)) return Number();
    if (IsNameStart(c)) {
      size_t size = 1;
      while (at_ + size < source_.size() && IsNameChar(source_[at_ + size])) ++size;
      Add(Kind::kName, Rest().substr(0, size));
      Advance(size);
      return absl::OkStatus();
    }
    for (const std::string_view op : {"**", "//", "==", "!=", "<=", ">="}) {
      if (Looking(op)) return Operator(op, open);
    }
    if (std::string_view("+-*/%~<>=.:|,;()[]{}").find(c) == std::string_view::npos) {
      return ErrorAt(line_, absl::StrCat("unexpected character ",
                                         std::string(Rest().substr(0, FirstChar(Rest()).size))));
    }
    return Operator(Rest().substr(0, 1), open);
  }

  absl::Status Operator(std::string_view op, std::string* open) {
    constexpr std::string_view kOpening = "([{";
    constexpr std::string_view kClosing = ")]}";
    if (kOpening.find(op) != std::string_view::npos) open->append(op);
    if (const size_t which = kClosing.find(op); which != std::string_view::npos) {
      if (open->empty() || open->back() != kOpening[which]) {
        return ErrorAt(line_, absl::StrCat("unexpected '", std::string(op), "'"));
      }
      open->pop_back();
    }
    Add(Kind::kOperator, op);
    Advance(op.size());
    return absl::OkStatus();
  }

  absl::Status Number() {
    const std::string_view rest = Rest();
    size_t size = 0;
    const auto digits = [&] {
      while (size < rest.size() && (IsDigit(rest[size]) || rest[size] == '_')) ++size;
    };
    digits();
    // In a.0.1 there is no fraction.
    const bool after_dot =
        !tokens_.empty() && tokens_.back().kind == Kind::kOperator && tokens_.back().text == ".";
    bool is_float = false;
    if (!after_dot && size + 1 < rest.size() && rest[size] == '.' && IsDigit(rest[size + 1])) {
      is_float = true;
      ++size;
      digits();
    }
    if (size < rest.size() && (rest[size] == 'e' || rest[size] == 'E')) {
      size_t exponent = size + 1;
      if (exponent < rest.size() && (rest[exponent] == '+' || rest[exponent] == '-')) ++exponent;
      if (exponent < rest.size() && IsDigit(rest[exponent])) {
        is_float = true;
        size = exponent;
        digits();
      }
    }
    std::string text(rest.substr(0, size));
    text.erase(std::remove(text.begin(), text.end(), '_'), text.end());
    Add(is_float ? Kind::kFloat : Kind::kInteger, text);
    Advance(size);
    return absl::OkStatus();
  }

  absl::Status String() {
    const char quote = source_[at_];
    const int line = line_;
    std::string text;
    size_t i = at_ + 1;
    while (i < source_.size() && source_[i] != quote) {
      if (source_[i] != '\\') {
        text.push_back(source_[i++]);
        continue;
      }
      const auto used = Escape(std::string_view(source_).substr(i), &text);
      if (!used.has_value()) return ErrorAt(line, "an escape in a string that is not understood");
      i += *used;
    }
    if (i >= source_.size()) return ErrorAt(line, "a string that is not closed");
    Add(Kind::kString, text);
    Advance(i + 1 - at_);
    return absl::OkStatus();
  }

  // Appends what the escape at the front of `text` stands for; returns its size, nothing if it is broken.
  static std::optional<size_t> Escape(std::string_view text, std::string* out) {
    if (text.size() < 2) return std::nullopt;
    constexpr std::string_view kPlain = "ntrabfv\\'\"";
    constexpr std::string_view kMeaning = "\n\t\r\a\b\f\v\\'\"";
    const char kind = text[1];
    if (const size_t which = kPlain.find(kind); which != std::string_view::npos) {
      out->push_back(kMeaning[which]);
      return 2;
    }
    if (kind == '\n') return 2;
    size_t begin = 2;
    size_t digits = kind == 'x' ? 2 : kind == 'u' ? 4 : kind == 'U' ? 8 : 0;
    int base = 16;
    if (kind >= '0' && kind <= '7') {
      begin = 1;
      base = 8;
      digits = 1;
      while (digits < 3 && begin + digits < text.size() && text[begin + digits] >= '0' &&
             text[begin + digits] <= '7')
        ++digits;
    }
    if (digits == 0) {  // not an escape: the backslash stays
      out->push_back('\\');
      return 1;
    }
    if (text.size() < begin + digits) return std::nullopt;
    uint32_t code = 0;
    const char* end = text.data() + begin + digits;
    const auto [stop, error] = std::from_chars(text.data() + begin, end, code, base);
    const bool scalar = code <= 0x10FFFF && (code < 0xD800 || code > 0xDFFF);
    if (error != std::errc() || stop != end || !scalar) return std::nullopt;
    AppendUtf8(code, out);
    return begin + digits;
  }

  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool at_line_start_ = true;  // whether `at_` stands at the beginning of a line or of the source
  std::vector<Token> tokens_;
};

}  // namespace

absl::Status ErrorAt(int line, const std::string& message) {
  return absl::InvalidArgumentError(absl::StrCat("chat template line ", line, ": ", message));
}

absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source) {
  // Newlines are all alike, and one at the very end is not part of the template.
  std::string text = absl::StrReplaceAll(std::string(source), {{"\r\n", "\n"}, {"\r", "\n"}});
  if (text.ends_with('\n')) text.pop_back();
  return Lexer(text).Run();
}

}  // namespace clamor::jinja
