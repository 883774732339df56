// Tokens that are found in text before the model sees it: `added_tokens` of tokenizer.json, special ones
// among them.
//
// Tokens with `normalized` are searched in normalized text, the others in the text as given. At each place
// the longest token wins; a special token that the caller does not want there is passed over. Immutable; may
// be used from any thread. Tested by tests/model/tokenizer/added_tokens_test.cc.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/tokenizer/bpe.h"
#include "model/tokenizer/marked_text.h"
#include "model/tokenizer/normalizer.h"
#include "nlohmann/json.hpp"

namespace clamor {

class AddedTokens {
 public:
  struct Token {
    int32_t id;
    std::string content;
    bool special;
    bool single_word;  // only between characters that are not of a word
    bool lstrip;       // takes the white space before it
    bool rstrip;       // and after it
  };
  // A stretch of text: one token, or text without tokens if `token` is null.
  struct Segment {
    const Token* token;
    size_t begin;
    size_t end;
  };
  enum class Stage { kRaw, kNormalized };

  // The field `added_tokens`. INVALID_ARGUMENT names field and value: ids out of range, taken by another
  // token, or not that of the same text in the vocabulary of `bpe`.
  static absl::StatusOr<AddedTokens> FromJson(const nlohmann::json& json, const std::string& path,
                                              const Bpe& bpe, const Normalizer& normalizer);

  // Cuts `text` into segments that cover it. Special tokens are honoured only where no byte of them is
  // marked, and nowhere if not `parse_specials`.
  std::vector<Segment> Find(const MarkedText& text, Stage stage, bool parse_specials) const;

  const Token* ById(int32_t id) const;                     // null: no such token
  const Token* ByContent(std::string_view content) const;  // null: no such token
  const std::vector<Token>& tokens() const { return tokens_; }

 private:
  // A set of strings as a byte trie.
  struct Trie {
    struct Node {
      int32_t token = -1;  // index of the token that ends here
    };
    std::vector<Node> nodes{1};
    absl::flat_hash_map<uint64_t, uint32_t> edges;  // node << 8 | byte
    std::array<bool, 256> starts{};

    void Insert(std::string_view text, int32_t token);
    // The longest string that `text` begins with: its token, or -1; `size` its length.
    int32_t Longest(std::string_view text, size_t* size) const;
  };

  std::vector<Token> tokens_;
  absl::flat_hash_map<int32_t, uint32_t> by_id_;
  std::map<std::string, uint32_t, std::less<>> by_content_;
  Trie raw_;
  Trie normalized_;
};

}  // namespace clamor
