// Which tokens may come next, by a grammar: its automaton walked along the trie of the vocabulary.
//
// Not for several threads at once: one for each grammar and thread, all over the same grammar and trie.
// Tested by tests/model/grammar/token_mask_test.cc.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "model/grammar/grammar.h"
#include "model/grammar/token_trie.h"

namespace clamor {

class TokenMask {
 public:
  // `end_ids` end a text: exactly where it is complete. Those outside the vocabulary are left out. Keeps at
  // most `max_cached` masks of vocab_size / 8 bytes, those used last.
  TokenMask(std::shared_ptr<const Grammar> grammar, std::shared_ptr<const TokenTrie> tokens,
            std::vector<int32_t> end_ids, size_t max_cached = 32);

  // Bit `id % 64` of word `id / 64`: whether `id` may come next. At least one may. Valid until the next call.
  std::span<const uint64_t> Allowed(const GrammarState& state);

  // Reads the bytes of a token; an end id is read as the end. False: it may not come next, and `state` is as
  // it was.
  bool Advance(GrammarState* state, int32_t id) const;

  bool IsEnd(int32_t id) const { return std::find(end_ids_.begin(), end_ids_.end(), id) != end_ids_.end(); }

  const Grammar& grammar() const { return *grammar_; }

 private:
  using Mask = std::vector<uint64_t>;
  using Cache = absl::flat_hash_map<GrammarState, std::unique_ptr<Mask>>;

  void Fill(const GrammarState& state, Mask* mask);
  void Walk(const GrammarState& state, const ByteTrie& trie, Mask* mask);

  std::shared_ptr<const Grammar> grammar_;
  std::shared_ptr<const TokenTrie> tokens_;
  std::vector<int32_t> end_ids_;
  size_t max_cached_;
  Mask all_plain_;
  std::vector<GrammarState> path_;  // states along the trie
  Cache young_;
  Cache old_;  // the whole of it goes when `young_` is half of what is kept
};

}  // namespace clamor
