#include "model/tokenizer/decoder.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <optional>
#include <system_error>
#include <type_traits>
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

using Incomplete = Decoder::Incomplete;
using Stage = Decoder::Stage;

// Stages call each other, and replacements may feed replacements.
constexpr size_t kMaxStages = 64;
constexpr size_t kMaxGrowth = 64;

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

class Sink : public Stage {
 public:
  explicit Sink(std::string* out) : out_(out) {}
  void Push(std::string_view text, bool) override { out_->append(text); }
  void Finish() override {}

 private:
  std::string* out_;
};

// A stage before another.
class Link : public Stage {
 public:
  explicit Link(std::unique_ptr<Stage> next) : next_(std::move(next)) {}
  void Finish() override { next_->Finish(); }

 protected:
  Stage& next() { return *next_; }

 private:
  std::unique_ptr<Stage> next_;
};

// A stage that sees tokens whole.
class TokenLink : public Link {
 public:
  using Link::Link;
  void Push(std::string_view text, bool ends_token) final {
    token_.append(text);
    if (!ends_token) return;
    OnToken(token_);
    token_.clear();
  }

 protected:
  virtual void OnToken(const std::string& token) = 0;

 private:
  std::string token_;
};

class Replace : public TokenLink {
 public:
  Replace(std::string pattern, std::string content, std::unique_ptr<Stage> next)
      : TokenLink(std::move(next)), pattern_(std::move(pattern)), content_(std::move(content)) {}

 protected:
  void OnToken(const std::string& token) override {
    next().Push(absl::StrReplaceAll(token, {{pattern_, content_}}), true);
  }

 private:
  std::string pattern_;
  std::string content_;
};

// Tokens like <0xE2> stand for bytes. A run of them that is valid UTF-8 is its characters; any other run is
// one U+FFFD for each byte, so nothing of a run is certain before it ends.
class ByteFallback : public TokenLink {
 public:
  ByteFallback(std::unique_ptr<Stage> next, Incomplete incomplete)
      : TokenLink(std::move(next)), incomplete_(incomplete) {}
  void Finish() override {
    EndRun();
    TokenLink::Finish();
  }

 protected:
  void OnToken(const std::string& token) override {
    if (const auto byte = Byte(token)) {
      run_.push_back(static_cast<char>(*byte));
    } else {
      EndRun();
      next().Push(token, true);
    }
  }

 private:
  static std::optional<unsigned char> Byte(std::string_view token) {
    unsigned char value = 0;
    if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
    const auto [end, error] = std::from_chars(&token[3], &token[5], value, 16);
    if (error != std::errc() || end != &token[5]) return std::nullopt;
    return value;
  }

  void EndRun() {
    if (run_.empty()) return;
    if (incomplete_ == Incomplete::kReplaced && FindInvalidUtf8(run_).has_value()) {
      for (size_t i = 0; i < run_.size(); ++i) next().Push(kReplacement, true);
    } else {
      next().Push(run_, true);
    }
    run_.clear();
  }

  Incomplete incomplete_;
  std::string run_;
};

// All tokens become one.
class Fuse : public Link {
 public:
  using Link::Link;
  void Push(std::string_view text, bool) override { next().Push(text, false); }
  void Finish() override {
    next().Push("", true);
    Link::Finish();
  }
};

// Takes up to `start` copies of a character from the front of each token and up to `stop` from its back.
class Strip : public Link {
 public:
  Strip(std::string content, int64_t start, int64_t stop, std::unique_ptr<Stage> next)
      : Link(std::move(next)), content_(std::move(content)), start_(start), stop_(stop) {}

  void Push(std::string_view text, bool ends_token) override {
    for (; at_front_ < start_ && !text.empty(); ++at_front_) {
      if (text.substr(0, content_.size()) != content_) {
        at_front_ = start_;
        break;
      }
      text.remove_prefix(content_.size());
    }
    // Copies at the end are held back as long as they might be the last.
    size_t copies = 0;
    while (static_cast<int64_t>(copies) < stop_ && text.size() >= (copies + 1) * content_.size() &&
           text.substr(text.size() - (copies + 1) * content_.size(), content_.size()) == content_) {
      ++copies;
    }
    const std::string_view certain = text.substr(0, text.size() - copies * content_.size());
    if (!certain.empty()) Release(held_);
    next().Push(certain, false);
    held_ += static_cast<int64_t>(copies);
    if (held_ > stop_) Release(held_ - stop_);
    if (ends_token) EndToken();
  }

 private:
  void Release(int64_t copies) {
    for (; copies > 0; --copies, --held_) next().Push(content_, false);
  }

  void EndToken() {
    next().Push("", true);
    held_ = 0;
    at_front_ = 0;
  }

  std::string content_;
  int64_t start_;
  int64_t stop_;
  int64_t at_front_ = 0;  // copies taken from the front of this token; start_ once something else came
  int64_t held_ = 0;      // copies at the back not passed on yet
};

// Spaces for the replacement, none in the first token if the pre-tokenizer put one there.
class Metaspace : public Link {
 public:
  Metaspace(std::string replacement, bool drop_first, std::unique_ptr<Stage> next)
      : Link(std::move(next)), replacement_(std::move(replacement)), drop_(drop_first) {}
  void Push(std::string_view text, bool ends_token) override {
    next().Push(absl::StrReplaceAll(std::string(text), {{replacement_, drop_ ? "" : " "}}), ends_token);
    if (ends_token) drop_ = false;
  }

 private:
  std::string replacement_;
  bool drop_;
};

// Characters of the byte alphabet back to bytes. A token with any other character stands for its own UTF-8.
class ByteLevel : public TokenLink {
 public:
  ByteLevel(std::unique_ptr<Stage> next, Incomplete incomplete)
      : TokenLink(std::move(next)), incomplete_(incomplete) {}
  void Finish() override {
    Pass(/*at_end=*/true);
    next().Push("", true);
    TokenLink::Finish();
  }

 protected:
  void OnToken(const std::string& token) override {
    const size_t before = bytes_.size();
    bool foreign = false;
    ForEachChar(token, [&](uint32_t code, std::string_view) {
      const auto byte = kByteAlphabet.Byte(code);
      foreign |= !byte.has_value();
      bytes_.push_back(static_cast<char>(byte.value_or(0)));
    });
    if (foreign) bytes_.replace(before, std::string::npos, token);
    Pass(/*at_end=*/false);
  }

 private:
  void Pass(bool at_end) {
    std::string text;
    if (incomplete_ == Incomplete::kKept) {
      text.swap(bytes_);
    } else {
      bytes_.erase(0, AppendLossyUtf8(bytes_, at_end, &text));
    }
    next().Push(text, false);
  }

  Incomplete incomplete_;
  std::string bytes_;  // an incomplete character
};

class JoinWithSpaces : public TokenLink {
 public:
  using TokenLink::TokenLink;

 protected:
  void OnToken(const std::string& token) override {
    if (!first_) next().Push(" ", true);
    next().Push(token, true);
    first_ = false;
  }

 private:
  bool first_ = true;
};

// Makes stages of one kind, all with the same arguments.
template <typename StageType, typename... Args>
auto MakerOf(Args... args) {
  return [args...](std::unique_ptr<Stage> next, Incomplete incomplete) {
    if constexpr (std::is_constructible_v<StageType, Args..., std::unique_ptr<Stage>, Incomplete>) {
      return std::make_unique<StageType>(args..., std::move(next), incomplete);
    } else {
      return std::make_unique<StageType>(args..., std::move(next));
    }
  };
}

absl::StatusOr<std::string> OneCharacter(const nlohmann::json& json, const char* key,
                                         const std::string& path) {
  CLAMOR_ASSIGN_OR_RETURN(std::string text, StringField(json, key, path));
  if (text.empty() || FirstChar(text).size != text.size()) {
    return UnexpectedValue(absl::StrCat(path, ".", key), text, "one character");
  }
  return text;
}

absl::StatusOr<int64_t> Count(const nlohmann::json& json, const char* key, const std::string& path) {
  const nlohmann::json& count = Field(json, key);
  if (!IsIntegerIn(count, 0, INT32_MAX))
    return UnexpectedValue(absl::StrCat(path, ".", key), count, "a count");
  return count.get<int64_t>();
}

}  // namespace

absl::StatusOr<Decoder> Decoder::FromJson(const nlohmann::json& json, const std::string& path) {
  Decoder decoder;
  if (json.is_null()) {
    decoder.makers_.push_back(MakerOf<JoinWithSpaces>());
    return decoder;
  }
  CLAMOR_RETURN_IF_ERROR(decoder.Add(json, path));
  return decoder;
}

absl::Status Decoder::Add(const nlohmann::json& json, const std::string& path) {
  if (makers_.size() == kMaxStages) {
    return UnexpectedValue(path, json, absl::StrCat("at most ", kMaxStages, " decoders"));
  }
  CLAMOR_ASSIGN_OR_RETURN(const std::string type, StringField(json, "type", path));
  if (type == "Replace") return AddReplace(json, path);
  if (type == "Strip") {
    CLAMOR_ASSIGN_OR_RETURN(const std::string content, OneCharacter(json, "content", path));
    CLAMOR_ASSIGN_OR_RETURN(const int64_t start, Count(json, "start", path));
    CLAMOR_ASSIGN_OR_RETURN(const int64_t stop, Count(json, "stop", path));
    makers_.push_back(MakerOf<Strip>(content, start, stop));
  } else if (type == "Metaspace") {
    CLAMOR_ASSIGN_OR_RETURN(const std::string replacement, OneCharacter(json, "replacement", path));
    CLAMOR_ASSIGN_OR_RETURN(const bool prefix_space, BoolField(json, "add_prefix_space", path, true));
    CLAMOR_ASSIGN_OR_RETURN(const std::string scheme,
                            StringField(json, "prepend_scheme", path, prefix_space ? "always" : "never"));
    makers_.push_back(MakerOf<Metaspace>(replacement, scheme != "never"));
  } else if (type == "ByteLevel") {
    makers_.push_back(MakerOf<ByteLevel>());
  } else if (type == "ByteFallback") {
    makers_.push_back(MakerOf<ByteFallback>());
  } else if (type == "Fuse") {
    makers_.push_back(MakerOf<Fuse>());
  } else if (type == "Sequence") {
    CLAMOR_ASSIGN_OR_RETURN(const nlohmann::json* parts, ArrayField(json, "decoders", path));
    for (size_t i = 0; i < parts->size(); ++i) {
      CLAMOR_RETURN_IF_ERROR(Add((*parts)[i], absl::StrCat(path, ".decoders[", i, "]")));
    }
  } else {
    return UnexpectedValue(absl::StrCat(path, ".type"), Field(json, "type"),
                           "ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace or Sequence");
  }
  return absl::OkStatus();
}

absl::Status Decoder::AddReplace(const nlohmann::json& json, const std::string& path) {
  const nlohmann::json& pattern = Field(Field(json, "pattern"), "String");
  if (!pattern.is_string() || pattern == "") {
    return UnexpectedValue(absl::StrCat(path, ".pattern"), Field(json, "pattern"),
                           "{\"String\": ..}, not empty");
  }
  const std::string from = pattern.get<std::string>();
  CLAMOR_ASSIGN_OR_RETURN(const std::string content, StringField(json, "content", path));
  growth_ *= (std::max(content.size(), from.size()) + from.size() - 1) / from.size();
  if (growth_ > kMaxGrowth) {
    return UnexpectedValue(absl::StrCat(path, ".content"), content,
                           absl::StrCat("decoders that make text at most ", kMaxGrowth, " times as long"));
  }
  makers_.push_back(MakerOf<Replace>(from, content));
  return absl::OkStatus();
}

std::unique_ptr<Stage> Decoder::NewChain(std::string* out, Incomplete incomplete) const {
  std::unique_ptr<Stage> chain = std::make_unique<Sink>(out);
  for (auto maker = makers_.rbegin(); maker != makers_.rend(); ++maker) {
    chain = (*maker)(std::move(chain), incomplete);
  }
  return chain;
}

}  // namespace clamor
