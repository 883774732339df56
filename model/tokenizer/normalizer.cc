#include "model/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "model/tokenizer/json_field.h"
#include "model/tokenizer/pattern.h"
#include "model/tokenizer/utf8.h"

namespace clamor {
namespace {

using Step = Normalizer::Step;

constexpr size_t kMaxNormalizedBytes = 256 << 20;
constexpr size_t kMaxSteps = 64;
constexpr size_t kMaxInsertedBytes = 1024;

struct Form {
  std::string_view name;
  int options;
};
constexpr Form kForms[] = {
    {"NFC", UTF8PROC_STABLE | UTF8PROC_COMPOSE},
    {"NFD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE},
    {"NFKC", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
    {"NFKD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT},
};

uint16_t CombiningClass(utf8proc_int32_t code) { return utf8proc_get_property(code)->combining_class; }

// A Unicode normalization form. utf8proc's own loop sorts combining marks by insertion, which takes quadratic
// time on hostile text; here the runs of marks are sorted by std::stable_sort and utf8proc decomposes and
// composes.
class UnicodeForm : public Step {
 public:
  explicit UnicodeForm(int options) : options_(static_cast<utf8proc_option_t>(options)) {}

  // An ASCII character begins anew whatever stands before it, so text is cut there: runs of ASCII are copied,
  // and marks stay with the characters they belong to.
  absl::Status Apply(MarkedText* text) const override {
    const std::string& in = text->text();
    const auto not_ascii = [](char c) { return static_cast<unsigned char>(c) >= 0x80; };
    MarkedText out;
    size_t done = 0;
    while (done < in.size()) {
      const size_t first = std::find_if(in.begin() + done, in.end(), not_ascii) - in.begin();
      if (done == 0 && first == in.size()) return absl::OkStatus();
      const size_t begin = first > done && first < in.size() ? first - 1 : first;  // the base of a first mark
      out.Append(*text, done, begin);
      const size_t end = std::find_if_not(in.begin() + first, in.end(), not_ascii) - in.begin();
      out.Append(Convert(std::string_view(in).substr(begin, end - begin)), text->AnyMarked(begin, end));
      done = end;
    }
    *text = std::move(out);
    return absl::OkStatus();
  }

 private:
  std::string Convert(std::string_view text) const {
    std::vector<utf8proc_int32_t> codes;
    codes.reserve(text.size());
    ForEachChar(text, [&](uint32_t code, std::string_view) {
      utf8proc_int32_t parts[32];
      int boundary = 0;
      const auto options = static_cast<utf8proc_option_t>(options_ | UTF8PROC_DECOMPOSE);
      const auto n =
          utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code), parts, 32, options, &boundary);
      codes.insert(codes.end(), parts, parts + std::clamp<utf8proc_ssize_t>(n, 0, 32));
    });
    SortMarks(&codes);
    auto size = static_cast<utf8proc_ssize_t>(codes.size());
    if (options_ & UTF8PROC_COMPOSE) size = utf8proc_normalize_utf32(codes.data(), size, options_);
    std::string out;
    out.reserve(text.size());
    for (utf8proc_ssize_t i = 0; i < size; ++i) AppendUtf8(static_cast<uint32_t>(codes[i]), &out);
    return out;
  }

  static void SortMarks(std::vector<utf8proc_int32_t>* codes) {
    const auto is_starter = [](utf8proc_int32_t code) { return CombiningClass(code) == 0; };
    const auto by_class = [](utf8proc_int32_t a, utf8proc_int32_t b) {
      return CombiningClass(a) < CombiningClass(b);
    };
    auto run = codes->begin();
    while (run != codes->end()) {
      run = std::find_if_not(run, codes->end(), is_starter);
      const auto end = std::find_if(run, codes->end(), is_starter);
      std::stable_sort(run, end, by_class);
      run = end;
    }
  }

  utf8proc_option_t options_;
};

class Lowercase : public Step {
 public:
  absl::Status Apply(MarkedText* text) const override {
    MarkedText out;
    size_t at = 0;
    ForEachChar(text->text(), [&](uint32_t code, std::string_view part) {
      std::string lower;
      AppendUtf8(static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code))), &lower);
      if (code == 0x130) lower = "i\xCC\x87";  // the only character whose lower case is two
      out.Append(lower, text->AnyMarked(at, at + part.size()));
      at += part.size();
    });
    *text = std::move(out);
    return absl::OkStatus();
  }
};

class Prepend : public Step {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  absl::Status Apply(MarkedText* text) const override {
    if (text->empty()) return absl::OkStatus();
    MarkedText out(prefix_);
    out.Append(*text);
    *text = std::move(out);
    return absl::OkStatus();
  }

 private:
  std::string prefix_;
};

class Replace : public Step {
 public:
  Replace(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  absl::Status Apply(MarkedText* text) const override {
    std::vector<Pattern::Match> matches;
    CLAMOR_RETURN_IF_ERROR(pattern_.FindAll(text->text(), &matches));
    if (matches.empty()) return absl::OkStatus();
    if (text->size() + matches.size() * content_.size() > kMaxNormalizedBytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("normalized text is over ", kMaxNormalizedBytes, " bytes"));
    }
    MarkedText out;
    size_t done = 0;
    for (const Pattern::Match& match : matches) {
      out.Append(*text, done, match.begin);
      out.Append(content_, text->AnyMarked(match.begin, match.end));
      done = match.end;
    }
    out.Append(*text, done, text->size());
    *text = std::move(out);
    return absl::OkStatus();
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class Strip : public Step {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  absl::Status Apply(MarkedText* text) const override {
    size_t at = 0;
    size_t begin = std::string::npos;  // of the first character that is not white space
    size_t end = 0;                    // of the last one
    ForEachChar(text->text(), [&](uint32_t code, std::string_view part) {
      if (!IsWhitespace(code)) {
        begin = std::min(begin, at);
        end = at + part.size();
      }
      at += part.size();
    });
    begin = left_ ? std::min(begin, text->size()) : 0;
    *text = text->Slice(begin, right_ ? std::max(begin, end) : text->size());
    return absl::OkStatus();
  }

 private:
  bool left_;
  bool right_;
};

// The text that a step may put in again and again.
absl::StatusOr<std::string> InsertedText(const nlohmann::json& json, const char* key,
                                         const std::string& path) {
  CLAMOR_ASSIGN_OR_RETURN(std::string text, StringField(json, key, path));
  if (text.size() > kMaxInsertedBytes) {
    return UnexpectedValue(absl::StrCat(path, ".", key), text,
                           absl::StrCat("at most ", kMaxInsertedBytes, " bytes"));
  }
  return text;
}

absl::Status AddSteps(const nlohmann::json& json, const std::string& path,
                      std::vector<std::unique_ptr<Step>>* steps) {
  if (json.is_null()) return absl::OkStatus();
  if (steps->size() == kMaxSteps)
    return UnexpectedValue(path, json, absl::StrCat("at most ", kMaxSteps, " steps"));
  CLAMOR_ASSIGN_OR_RETURN(const std::string type, StringField(json, "type", path));
  for (const Form& form : kForms) {
    if (type == form.name)
      return steps->push_back(std::make_unique<UnicodeForm>(form.options)), absl::OkStatus();
  }
  if (type == "Sequence") {
    CLAMOR_ASSIGN_OR_RETURN(const nlohmann::json* parts, ArrayField(json, "normalizers", path));
    for (size_t i = 0; i < parts->size(); ++i) {
      CLAMOR_RETURN_IF_ERROR(AddSteps((*parts)[i], absl::StrCat(path, ".normalizers[", i, "]"), steps));
    }
  } else if (type == "Lowercase") {
    steps->push_back(std::make_unique<Lowercase>());
  } else if (type == "Prepend") {
    CLAMOR_ASSIGN_OR_RETURN(std::string prefix, InsertedText(json, "prepend", path));
    steps->push_back(std::make_unique<Prepend>(std::move(prefix)));
  } else if (type == "Replace") {
    CLAMOR_ASSIGN_OR_RETURN(Pattern pattern, Pattern::FromJson(json, path));
    CLAMOR_ASSIGN_OR_RETURN(std::string content, InsertedText(json, "content", path));
    steps->push_back(std::make_unique<Replace>(std::move(pattern), std::move(content)));
  } else if (type == "Strip") {
    CLAMOR_ASSIGN_OR_RETURN(const bool left, BoolField(json, "strip_left", path));
    CLAMOR_ASSIGN_OR_RETURN(const bool right, BoolField(json, "strip_right", path));
    steps->push_back(std::make_unique<Strip>(left, right));
  } else {
    return UnexpectedValue(absl::StrCat(path, ".type"), Field(json, "type"),
                           "NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip or Sequence");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Normalizer> Normalizer::FromJson(const nlohmann::json& json, const std::string& path) {
  Normalizer normalizer;
  CLAMOR_RETURN_IF_ERROR(AddSteps(json, path, &normalizer.steps_));
  return normalizer;
}

absl::Status Normalizer::Apply(MarkedText* text) const {
  for (const auto& step : steps_) CLAMOR_RETURN_IF_ERROR(step->Apply(text));
  return absl::OkStatus();
}

}  // namespace clamor
