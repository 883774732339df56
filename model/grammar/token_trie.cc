#include "model/grammar/token_trie.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "model/grammar/string_lexer.h"

namespace clamor {
namespace {

std::vector<std::string> BytesOf(const Tokenizer& tokenizer) {
  std::vector<std::string> bytes;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) bytes.push_back(tokenizer.TokenBytes(id));
  return bytes;
}

std::vector<std::string> WithoutLong(std::vector<std::string> bytes) {
  for (std::string& token : bytes) {
    if (token.size() > TokenTrie::kMaxTokenBytes) token.clear();
  }
  return bytes;
}

template <typename Condition>
std::vector<int32_t> IdsIf(const std::vector<std::string>& bytes, Condition condition) {
  std::vector<int32_t> ids;
  for (size_t id = 0; id < bytes.size(); ++id) {
    if (!bytes[id].empty() && condition(bytes[id])) ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

bool IsMarked(const std::string& token) { return token.find_first_of("\"\\") != std::string::npos; }

// How many characters begin in `token`, if it may stand in a string between two characters.
std::optional<uint32_t> PlainCharacters(const std::string& token) {
  StringPart part = StringPart::kBetween;
  uint32_t characters = 0;
  for (const char c : token) {
    if (part == StringPart::kBetween) ++characters;
    part = NextStringPart(part, static_cast<unsigned char>(c));
    if (part == StringPart::kInvalid) return std::nullopt;
  }
  return characters;
}

}  // namespace

ByteTrie::ByteTrie(std::span<const std::string> bytes, std::vector<int32_t> ids) : ids_(std::move(ids)) {
  // std::string compares bytes as unsigned.
  std::sort(ids_.begin(), ids_.end(),
            [&](int32_t a, int32_t b) { return bytes[a] != bytes[b] ? bytes[a] < bytes[b] : a < b; });
  std::vector<uint32_t> path;  // nodes of the last token
  const auto leave = [&](size_t depth) {
    for (; path.size() > depth; path.pop_back())
      nodes_[path.back()].next = static_cast<uint32_t>(nodes_.size());
  };
  std::string_view last;
  for (uint32_t i = 0; i < ids_.size(); ++i) {
    const std::string_view token = bytes[ids_[i]];
    const auto common =
        std::mismatch(last.begin(), last.end(), token.begin(), token.end()).first - last.begin();
    leave(static_cast<size_t>(common));
    while (path.size() < token.size()) {
      const auto byte = static_cast<uint8_t>(token[path.size()]);
      path.push_back(static_cast<uint32_t>(nodes_.size()));
      nodes_.push_back({.next = 0, .ids_end = i, .depth = static_cast<uint16_t>(path.size()), .byte = byte});
    }
    nodes_.back().ids_end = i + 1;
    last = token;
  }
  leave(0);
}

TokenTrie::TokenTrie(std::vector<std::string> bytes)
    : bytes_(WithoutLong(std::move(bytes))),
      all_(bytes_, IdsIf(bytes_, [](const std::string&) { return true; })),
      marked_(bytes_, IdsIf(bytes_, IsMarked)) {
  for (const int32_t id : IdsIf(bytes_, [](const std::string& token) { return !IsMarked(token); })) {
    if (const auto characters = PlainCharacters(bytes_[id])) plain_.push_back({*characters, id});
  }
  std::stable_sort(plain_.begin(), plain_.end(),
                   [](const PlainToken& a, const PlainToken& b) { return a.characters < b.characters; });
}

TokenTrie::TokenTrie(const Tokenizer& tokenizer) : TokenTrie(BytesOf(tokenizer)) {}

bool TokenTrie::SpellsAscii(int32_t limit) const {
  std::array<bool, 128> spelled{};
  for (int32_t id = 0; id < std::min(limit, vocab_size()); ++id) {
    const std::string& bytes = bytes_[id];
    if (bytes.size() == 1 && static_cast<unsigned char>(bytes[0]) < 128) {
      spelled[static_cast<unsigned char>(bytes[0])] = true;
    }
  }
  return std::all_of(spelled.begin() + ' ', spelled.begin() + '~' + 1, [](bool known) { return known; });
}

}  // namespace clamor
