// The tokens of a vocabulary by the bytes they stand for, as tries: what all grammars share.
//
// Immutable; may be used from any thread. Some 25 bytes for each byte of a token that no other token shares.
// Tested by tests/model/grammar/token_mask_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer/tokenizer.h"

namespace clamor {

// A trie as the list of its nodes, each before what is below it.
class ByteTrie {
 public:
  struct Node {
    uint32_t next;     // the first node that is not below this one
    uint32_t ids_end;  // this node's tokens are those from the ids_end of the node before
    uint16_t depth;    // 1: the first byte of a token
    uint8_t byte;
  };

  // Tokens of `ids`, whose bytes are in `bytes` by id, none empty.
  ByteTrie(std::span<const std::string> bytes, std::vector<int32_t> ids);

  std::span<const Node> nodes() const { return nodes_; }
  std::span<const int32_t> IdsAt(size_t node) const {
    const uint32_t begin = node == 0 ? 0 : nodes_[node - 1].ids_end;
    return std::span(ids_).subspan(begin, nodes_[node].ids_end - begin);
  }

 private:
  std::vector<Node> nodes_;
  std::vector<int32_t> ids_;  // by bytes
};

class TokenTrie {
 public:
  // A token longer than this counts as one without bytes.
  static constexpr size_t kMaxTokenBytes = 256;

  // `bytes[id]`, empty for ids that never are text (special ones, ids without a token).
  explicit TokenTrie(std::vector<std::string> bytes);
  explicit TokenTrie(const Tokenizer& tokenizer);

  int32_t vocab_size() const { return static_cast<int32_t>(bytes_.size()); }
  // Empty for an id outside the vocabulary.
  std::string_view Bytes(int32_t id) const {
    return id >= 0 && id < vocab_size() ? std::string_view(bytes_[id]) : std::string_view();
  }

  // Whether every printable ASCII character is a token by itself, with an id below `limit`: no text is out of
  // reach then.
  bool SpellsAscii(int32_t limit) const;

  const ByteTrie& all() const { return all_; }
  // Those with a quote or a backslash; others cannot end a string.
  const ByteTrie& marked() const { return marked_; }

  // Tokens that a string which takes anything takes between two characters: no quote, no backslash.
  struct PlainToken {
    uint32_t characters;  // that begin in it
    int32_t id;
  };
  std::span<const PlainToken> plain() const { return plain_; }  // by characters

 private:
  std::vector<std::string> bytes_;
  ByteTrie all_;
  ByteTrie marked_;
  std::vector<PlainToken> plain_;
};

}  // namespace clamor
