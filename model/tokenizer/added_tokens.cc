#include "model/tokenizer/added_tokens.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "model/tokenizer/json_field.h"
#include "model/tokenizer/utf8.h"

namespace clamor {
namespace {

constexpr size_t kMaxContentBytes = 1024;
constexpr size_t kMaxTotalBytes = 4 << 20;  // of all contents; the tries take some thirty times as much

uint32_t LastChar(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return FirstChar(text.substr(at)).code;
}

bool StandsAlone(std::string_view text, size_t begin, size_t end) {
  if (begin > 0 && IsWord(LastChar(text.substr(0, begin)))) return false;
  return end == text.size() || !IsWord(FirstChar(text.substr(end)).code);
}

// The first byte of the white space that ends at `end`, not before `begin`.
size_t WhitespaceBefore(std::string_view text, size_t begin, size_t end) {
  while (end > begin) {
    const uint32_t code = LastChar(text.substr(begin, end - begin));
    if (!IsWhitespace(code)) break;
    std::string encoded;
    AppendUtf8(code, &encoded);
    end -= encoded.size();
  }
  return end;
}

size_t WhitespaceAfter(std::string_view text, size_t at) {
  while (at < text.size()) {
    const Utf8Char c = FirstChar(text.substr(at));
    if (!IsWhitespace(c.code)) break;
    at += c.size;
  }
  return at;
}

absl::StatusOr<AddedTokens::Token> ReadToken(const nlohmann::json& json, const std::string& path,
                                             const Bpe& bpe) {
  const nlohmann::json& id = Field(json, "id");
  if (!IsIntegerIn(id, 0, kMaxTokenId)) {
    return UnexpectedValue(absl::StrCat(path, ".id"), id,
                           absl::StrCat("an integer in [0, ", kMaxTokenId, "]"));
  }
  AddedTokens::Token token{};
  token.id = id.get<int32_t>();
  CLAMOR_ASSIGN_OR_RETURN(token.content, StringField(json, "content", path));
  CLAMOR_ASSIGN_OR_RETURN(token.special, BoolField(json, "special", path, false));
  CLAMOR_ASSIGN_OR_RETURN(token.single_word, BoolField(json, "single_word", path, false));
  CLAMOR_ASSIGN_OR_RETURN(token.lstrip, BoolField(json, "lstrip", path, false));
  CLAMOR_ASSIGN_OR_RETURN(token.rstrip, BoolField(json, "rstrip", path, false));
  if (token.content.empty() || token.content.size() > kMaxContentBytes) {
    return UnexpectedValue(absl::StrCat(path, ".content"), token.content,
                           absl::StrCat("1 to ", kMaxContentBytes, " bytes"));
  }
  const auto known_id = bpe.TokenToId(token.content);
  if (known_id.has_value() && *known_id != token.id) {
    return UnexpectedValue(absl::StrCat(path, ".id"), id, absl::StrCat(*known_id, " as in model.vocab"));
  }
  const std::string* known = bpe.IdToToken(token.id);
  if (known != nullptr && *known != token.content) {
    return UnexpectedValue(absl::StrCat(path, ".id"), id,
                           absl::StrCat("an id that is not that of ", Shown(*known)));
  }
  return token;
}

}  // namespace

void AddedTokens::Trie::Insert(std::string_view text, int32_t token) {
  if (text.empty()) return;
  starts[static_cast<unsigned char>(text[0])] = true;
  uint32_t node = 0;
  for (const char c : text) {
    const uint64_t key = uint64_t{node} << 8 | static_cast<unsigned char>(c);
    const auto [edge, fresh] = edges.emplace(key, static_cast<uint32_t>(nodes.size()));
    if (fresh) nodes.emplace_back();
    node = edge->second;
  }
  if (nodes[node].token < 0) nodes[node].token = token;
}

int32_t AddedTokens::Trie::Longest(std::string_view text, size_t* size) const {
  int32_t token = -1;
  uint32_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto edge = edges.find(uint64_t{node} << 8 | static_cast<unsigned char>(text[i]));
    if (edge == edges.end()) break;
    node = edge->second;
    if (nodes[node].token >= 0) {
      token = nodes[node].token;
      *size = i + 1;
    }
  }
  return token;
}

absl::StatusOr<AddedTokens> AddedTokens::FromJson(const nlohmann::json& json, const std::string& path,
                                                  const Bpe& bpe, const Normalizer& normalizer) {
  AddedTokens added;
  if (json.is_null()) return added;
  if (!json.is_array()) return UnexpectedValue(path, json, "an array");
  size_t total_bytes = 0;
  for (size_t i = 0; i < json.size(); ++i) {
    const std::string where = absl::StrCat(path, "[", i, "]");
    CLAMOR_ASSIGN_OR_RETURN(Token token, ReadToken(json[i], where, bpe));
    CLAMOR_ASSIGN_OR_RETURN(const bool normalized, BoolField(json[i], "normalized", where, !token.special));
    const auto index = static_cast<uint32_t>(added.tokens_.size());
    if (!added.by_id_.emplace(token.id, index).second ||
        !added.by_content_.emplace(token.content, index).second) {
      return UnexpectedValue(where, json[i], "an id and a content that no other added token has");
    }
    MarkedText spelling(token.content);
    if (normalized) CLAMOR_RETURN_IF_ERROR(normalizer.Apply(&spelling));
    total_bytes += spelling.size();
    if (total_bytes > kMaxTotalBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": contents of more than ", kMaxTotalBytes, " bytes together"));
    }
    (normalized ? added.normalized_ : added.raw_).Insert(spelling.text(), static_cast<int32_t>(index));
    added.tokens_.push_back(std::move(token));
  }
  return added;
}

std::vector<AddedTokens::Segment> AddedTokens::Find(const MarkedText& marked, Stage stage,
                                                    bool parse_specials) const {
  const Trie& trie = stage == Stage::kRaw ? raw_ : normalized_;
  const std::string_view text = marked.text();
  std::vector<Segment> segments;
  size_t done = 0;
  for (size_t at = 0; at < text.size();) {
    size_t size = 1;
    const int32_t index =
        trie.starts[static_cast<unsigned char>(text[at])] ? trie.Longest(text.substr(at), &size) : -1;
    size_t begin = at;
    at += size;
    if (index < 0) continue;
    const Token& token = tokens_[index];
    size_t end = at;
    if (token.special && (!parse_specials || marked.AnyMarked(begin, end))) continue;
    if (token.single_word && !StandsAlone(text, begin, end)) continue;
    // White space that an earlier token took is gone.
    if (token.lstrip) begin = WhitespaceBefore(text, std::min(done, begin), begin);
    if (token.rstrip) end = WhitespaceAfter(text, end);
    if (done < begin) segments.push_back({nullptr, done, begin});
    segments.push_back({&token, begin, end});
    done = std::max(done, end);
  }
  if (done < text.size()) segments.push_back({nullptr, done, text.size()});
  return segments;
}

const AddedTokens::Token* AddedTokens::ById(int32_t id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &tokens_[found->second];
}

const AddedTokens::Token* AddedTokens::ByContent(std::string_view content) const {
  const auto found = by_content_.find(content);
  return found == by_content_.end() ? nullptr : &tokens_[found->second];
}

}  // namespace clamor
