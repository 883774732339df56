#include "model/tokenizer/pre_tokenizer.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "kernels/status_macros.h"
#include "model/tokenizer/byte_alphabet.h"
#include "model/tokenizer/json_field.h"
#include "model/tokenizer/pattern.h"
#include "model/tokenizer/utf8.h"

namespace clamor {
namespace {

using Step = PreTokenizer::Step;

// A stretch of a piece: matched by what it was cut by, or between two matches.
struct Part {
  size_t begin;
  size_t end;
  bool matched;
};

constexpr size_t kMaxSteps = 64;

enum class Behavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };

std::optional<Behavior> BehaviorNamed(std::string_view name) {
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  return std::nullopt;
}

// All of [0, size) in order, matches and what lies between them.
std::vector<Part> PartsOf(const std::vector<Pattern::Match>& matches, size_t size, bool invert) {
  std::vector<Part> parts;
  parts.reserve(2 * matches.size() + 1);
  size_t done = 0;
  for (const Pattern::Match& match : matches) {
    if (done != match.begin) parts.push_back({done, match.begin, invert});
    parts.push_back({match.begin, match.end, !invert});
    done = match.end;
  }
  if (done != size) parts.push_back({done, size, invert});
  return parts;
}

// Whether the second of two neighbours joins the first.
bool Joins(Behavior behavior, const Part& first, const Part& second) {
  switch (behavior) {
    case Behavior::kContiguous:
      return first.matched == second.matched;
    case Behavior::kMergedWithPrevious:
      return second.matched && !first.matched;
    case Behavior::kMergedWithNext:
      return first.matched && !second.matched;
    case Behavior::kIsolated:
    case Behavior::kRemoved:
      break;
  }
  return false;
}

void AppendParts(const Piece& piece, const std::vector<Part>& parts, Behavior behavior,
                 std::vector<Piece>* out) {
  for (size_t i = 0; i < parts.size();) {
    size_t next = i + 1;
    while (next < parts.size() && Joins(behavior, parts[next - 1], parts[next])) ++next;
    const size_t begin = parts[i].begin;
    const size_t end = parts[next - 1].end;
    const bool removed = behavior == Behavior::kRemoved && parts[i].matched;
    if (!removed && begin != end)
      out->push_back({piece.text.substr(begin, end - begin), piece.at_start && begin == 0});
    i = next;
  }
}

class Split : public Step {
 public:
  Split(Pattern pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  absl::Status Apply(std::vector<Piece>* pieces) const override {
    std::vector<Piece> out;
    std::vector<Pattern::Match> matches;
    for (const Piece& piece : *pieces) {
      CLAMOR_RETURN_IF_ERROR(pattern_.FindAll(piece.text, &matches));
      AppendParts(piece, PartsOf(matches, piece.text.size(), invert_), behavior_, &out);
    }
    *pieces = std::move(out);
    return absl::OkStatus();
  }

 private:
  Pattern pattern_;
  Behavior behavior_;
  bool invert_;
};

// Numbers by themselves, whole or digit by digit.
class Digits : public Step {
 public:
  explicit Digits(bool individual) : behavior_(individual ? Behavior::kIsolated : Behavior::kContiguous) {}

  absl::Status Apply(std::vector<Piece>* pieces) const override {
    std::vector<Piece> out;
    std::vector<Pattern::Match> digits;
    for (const Piece& piece : *pieces) {
      digits.clear();
      size_t at = 0;
      ForEachChar(piece.text, [&](uint32_t code, std::string_view part) {
        if (IsNumeric(code)) digits.push_back({at, at + part.size()});
        at += part.size();
      });
      AppendParts(piece, PartsOf(digits, at, /*invert=*/false), behavior_, &out);
    }
    *pieces = std::move(out);
    return absl::OkStatus();
  }

 private:
  Behavior behavior_;
};

class PrefixSpace : public Step {
 public:
  absl::Status Apply(std::vector<Piece>* pieces) const override {
    for (Piece& piece : *pieces) {
      if (piece.text[0] != ' ') piece.text.insert(piece.text.begin(), ' ');
    }
    return absl::OkStatus();
  }
};

class BytesToAlphabet : public Step {
 public:
  absl::Status Apply(std::vector<Piece>* pieces) const override {
    std::string mapped;
    for (Piece& piece : *pieces) {
      mapped.clear();
      for (const char c : piece.text)
        AppendUtf8(kByteAlphabet.to_char[static_cast<unsigned char>(c)], &mapped);
      piece.text = mapped;
    }
    return absl::OkStatus();
  }
};

class Metaspace : public Step {
 public:
  enum class Prepend { kAlways, kFirst, kNever };
  Metaspace(std::string replacement, Prepend prepend, bool split)
      : replacement_(std::move(replacement)), prepend_(prepend), split_(split) {}

  absl::Status Apply(std::vector<Piece>* pieces) const override {
    std::vector<Piece> out;
    std::vector<Pattern::Match> matches;
    const Pattern pattern = Pattern::FromLiteral(replacement_);
    for (Piece& piece : *pieces) {
      absl::StrReplaceAll({{" ", replacement_}}, &piece.text);
      const bool wanted = prepend_ == Prepend::kAlways || (prepend_ == Prepend::kFirst && piece.at_start);
      if (wanted && !piece.text.starts_with(replacement_)) piece.text.insert(0, replacement_);
      if (!split_) {
        out.push_back(std::move(piece));
        continue;
      }
      CLAMOR_RETURN_IF_ERROR(pattern.FindAll(piece.text, &matches));
      AppendParts(piece, PartsOf(matches, piece.text.size(), /*invert=*/false), Behavior::kMergedWithNext,
                  &out);
    }
    *pieces = std::move(out);
    return absl::OkStatus();
  }

 private:
  std::string replacement_;
  Prepend prepend_;
  bool split_;
};

// What byte-level models split by unless they bring a pattern of their own; GPT-2's.
constexpr std::string_view kGpt2Split =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

using Steps = std::vector<std::unique_ptr<Step>>;

absl::Status AddSplit(const nlohmann::json& json, const std::string& path, Steps* steps) {
  CLAMOR_ASSIGN_OR_RETURN(Pattern pattern, Pattern::FromJson(json, path));
  CLAMOR_ASSIGN_OR_RETURN(const std::string name, StringField(json, "behavior", path));
  CLAMOR_ASSIGN_OR_RETURN(const bool invert, BoolField(json, "invert", path, false));
  const std::optional<Behavior> behavior = BehaviorNamed(name);
  if (!behavior.has_value()) {
    return UnexpectedValue(absl::StrCat(path, ".behavior"), Field(json, "behavior"),
                           "Isolated, Removed, MergedWithPrevious, MergedWithNext or Contiguous");
  }
  steps->push_back(std::make_unique<Split>(std::move(pattern), *behavior, invert));
  return absl::OkStatus();
}

absl::Status AddByteLevel(const nlohmann::json& json, const std::string& path, Steps* steps) {
  CLAMOR_ASSIGN_OR_RETURN(const bool prefix_space, BoolField(json, "add_prefix_space", path, true));
  CLAMOR_ASSIGN_OR_RETURN(const bool use_regex, BoolField(json, "use_regex", path, true));
  if (prefix_space) steps->push_back(std::make_unique<PrefixSpace>());
  if (use_regex) {
    CLAMOR_ASSIGN_OR_RETURN(Pattern pattern, Pattern::FromRegex(kGpt2Split));
    steps->push_back(std::make_unique<Split>(std::move(pattern), Behavior::kIsolated, false));
  }
  steps->push_back(std::make_unique<BytesToAlphabet>());
  return absl::OkStatus();
}

absl::Status AddMetaspace(const nlohmann::json& json, const std::string& path, Steps* steps) {
  CLAMOR_ASSIGN_OR_RETURN(const std::string replacement, StringField(json, "replacement", path, "\u2581"));
  if (replacement.empty() || FirstChar(replacement).size != replacement.size()) {
    return UnexpectedValue(absl::StrCat(path, ".replacement"), Field(json, "replacement"), "one character");
  }
  // Before prepend_scheme there was add_prefix_space.
  CLAMOR_ASSIGN_OR_RETURN(const bool prefix_space, BoolField(json, "add_prefix_space", path, true));
  CLAMOR_ASSIGN_OR_RETURN(const std::string scheme,
                          StringField(json, "prepend_scheme", path, prefix_space ? "always" : "never"));
  CLAMOR_ASSIGN_OR_RETURN(const bool split, BoolField(json, "split", path, true));
  Metaspace::Prepend prepend = Metaspace::Prepend::kAlways;
  if (scheme == "first") {
    prepend = Metaspace::Prepend::kFirst;
  } else if (scheme == "never") {
    prepend = Metaspace::Prepend::kNever;
  } else if (scheme != "always") {
    return UnexpectedValue(absl::StrCat(path, ".prepend_scheme"), Field(json, "prepend_scheme"),
                           "always, first or never");
  }
  steps->push_back(std::make_unique<Metaspace>(replacement, prepend, split));
  return absl::OkStatus();
}

absl::Status AddSteps(const nlohmann::json& json, const std::string& path, Steps* steps) {
  if (json.is_null()) return absl::OkStatus();
  if (steps->size() >= kMaxSteps)
    return UnexpectedValue(path, json, absl::StrCat("at most ", kMaxSteps, " steps"));
  CLAMOR_ASSIGN_OR_RETURN(const std::string type, StringField(json, "type", path));
  if (type == "Split") return AddSplit(json, path, steps);
  if (type == "ByteLevel") return AddByteLevel(json, path, steps);
  if (type == "Metaspace") return AddMetaspace(json, path, steps);
  if (type == "Digits") {
    CLAMOR_ASSIGN_OR_RETURN(const bool individual, BoolField(json, "individual_digits", path, false));
    steps->push_back(std::make_unique<Digits>(individual));
    return absl::OkStatus();
  }
  if (type != "Sequence") {
    return UnexpectedValue(absl::StrCat(path, ".type"), Field(json, "type"),
                           "Split, ByteLevel, Metaspace, Digits or Sequence");
  }
  CLAMOR_ASSIGN_OR_RETURN(const nlohmann::json* parts, ArrayField(json, "pretokenizers", path));
  for (size_t i = 0; i < parts->size(); ++i) {
    CLAMOR_RETURN_IF_ERROR(AddSteps((*parts)[i], absl::StrCat(path, ".pretokenizers[", i, "]"), steps));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PreTokenizer> PreTokenizer::FromJson(const nlohmann::json& json, const std::string& path) {
  PreTokenizer pre_tokenizer;
  CLAMOR_RETURN_IF_ERROR(AddSteps(json, path, &pre_tokenizer.steps_));
  return pre_tokenizer;
}

absl::Status PreTokenizer::Apply(std::vector<Piece>* pieces) const {
  for (const auto& step : steps_) CLAMOR_RETURN_IF_ERROR(step->Apply(pieces));
  return absl::OkStatus();
}

}  // namespace clamor
