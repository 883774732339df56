#include "model/tokenizer/decoder.h"

#include <charconv>
#include <cstdint>
#include <optional>
#include <system_error>
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

using Stage = Decoder::Stage;

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

// Tokens like <0xE2> stand for bytes. A run of them that is valid UTF-8 is its characters; any other run is one U+FFFD for
// each byte, so nothing of a run is certain before it ends.
class ByteFallback : public TokenLink {
 public:
  using TokenLink::TokenLink;
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
    if (FindInvalidUtf8(run_).has_value()) {
      for (size_t i = 0; i < run_.size(); ++i) next().Push(kReplacement, true);
    } else {
      next().Push(run_, true);
    }
    run_.clear();
  }

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
  using TokenLink::TokenLink;
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
    bytes_.erase(0, AppendLossyUtf8(bytes_, at_end, &text));
    next().Push(text, false);
  }

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

}  // namespace

absl::StatusOr<Decoder> Decoder::FromJson(const nlohmann::json& json, const std::string& path) {
  Decoder decoder;
  if (json.is_null()) {
    decoder.makers_.push_back(
        [](std::unique_ptr<Stage> next) { return std::make_unique<JoinWithSpaces>(std::move(next)); });
    return decoder;
  }
  CLAMOR_RETURN_IF_ERROR(decoder.Add(json, path));
  return decoder;
}

absl::Status Decoder::Add(const nlohmann::json& json, const std::string& path) {
  CLAMOR_ASSIGN_OR_RETURN(const std::string type, StringField(json, "type", path));
  if (type != "Sequence") {
    CLAMOR_ASSIGN_OR_RETURN(StageMaker maker, MakerFromJson(type, json, path));
    makers_.push_back(std::move(maker));
    return absl::OkStatus();
  }
  CLAMOR_ASSIGN_OR_RETURN(const nlohmann::json* parts, ArrayField(json, "decoders", path));
  for (size_t i = 0; i < parts->size(); ++i) {
    CLAMOR_RETURN_IF_ERROR(Add((*parts)[i], absl::StrCat(path, ".decoders[", i, "]")));
  }
  return absl::OkStatus();
}

absl::StatusOr<Decoder::StageMaker> Decoder::MakerFromJson(const std::string& type, const nlohmann::json& json,
                                                           const std::string& path) {
  const auto plain = [](auto make) { return StageMaker(make); };
  if (type == "ByteLevel") {
    return plain([](std::unique_ptr<Stage> next) { return std::make_unique<ByteLevel>(std::move(next)); });
  }
  if (type == "ByteFallback") {
    return plain([](std::unique_ptr<Stage> next) { return std::make_unique<ByteFallback>(std::move(next)); });
  }
  if (type == "Fuse") {
    return plain([](std::unique_ptr<Stage> next) { return std::make_unique<Fuse>(std::move(next)); });
  }
  if (type == "Replace") {
    const nlohmann::json& pattern = Field(Field(json, "pattern"), "String");
    if (!pattern.is_string() || pattern == "") {
      return UnexpectedValue(absl::StrCat(path, ".pattern"), Field(json, "pattern"), "{\"String\": ..}, not empty");
    }
    CLAMOR_ASSIGN_OR_RETURN(const std::string content, StringField(json, "content", path));
    return StageMaker([from = pattern.get<std::string>(), content](std::unique_ptr<Stage> next) {
      return std::make_unique<Replace>(from, content, std::move(next));
    });
  }
  if (type == "Strip" || type == "Metaspace") {
    const char* key = type == "Strip" ? "content" : "replacement";
    CLAMOR_ASSIGN_OR_RETURN(const std::string content, StringField(json, key, path));
    if (content.empty() || FirstChar(content).size != content.size()) {
      return UnexpectedValue(absl::StrCat(path, ".", key), content, "one character");
    }
    if (type == "Metaspace") {
      CLAMOR_ASSIGN_OR_RETURN(const bool prefix_space, BoolField(json, "add_prefix_space", path, true));
      CLAMOR_ASSIGN_OR_RETURN(const std::string scheme,
                              StringField(json, "prepend_scheme", path, prefix_space ? "always" : "never"));
      return StageMaker([content, drop = scheme != "never"](std::unique_ptr<Stage> next) {
        return std::make_unique<Metaspace>(content, drop, std::move(next));
      });
    }
    for (const char* count : {"start", "stop"}) {
      if (!IsIntegerIn(Field(json, count), 0, INT32_MAX)) {
        return UnexpectedValue(absl::StrCat(path, ".", count), Field(json, count), "a count");
      }
    }
    return StageMaker([content, start = json["start"].get<int64_t>(),
                       stop = json["stop"].get<int64_t>()](std::unique_ptr<Stage> next) {
      return std::make_unique<Strip>(content, start, stop, std::move(next));
    });
  }
  return UnexpectedValue(absl::StrCat(path, ".type"), Field(json, "type"),
                         "ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace or Sequence");
}

std::unique_ptr<Stage> Decoder::NewChain(std::string* out) const {
  std::unique_ptr<Stage> chain = std::make_unique<Sink>(out);
  for (auto maker = makers_.rbegin(); maker != makers_.rend(); ++maker) chain = (*maker)(std::move(chain));
  return chain;
}

}  // namespace clamor
