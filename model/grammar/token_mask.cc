#include "model/grammar/token_mask.h"

#include <algorithm>
#include <utility>

namespace clamor {
namespace {

void Set(std::vector<uint64_t>* mask, int32_t id) { (*mask)[id / 64] |= uint64_t{1} << (id % 64); }

}  // namespace

TokenMask::TokenMask(std::shared_ptr<const Grammar> grammar, std::shared_ptr<const TokenTrie> tokens,
                     std::vector<int32_t> end_ids, size_t max_cached)
    : grammar_(std::move(grammar)),
      tokens_(std::move(tokens)),
      end_ids_(std::move(end_ids)),
      max_cached_(std::max<size_t>(max_cached, 2)),
      all_plain_((tokens_->vocab_size() + 63) / 64),
      path_(TokenTrie::kMaxTokenBytes + 1) {
  std::erase_if(end_ids_, [&](int32_t id) { return id < 0 || id >= tokens_->vocab_size(); });
  for (const TokenTrie::PlainToken& token : tokens_->plain()) Set(&all_plain_, token.id);
}

std::span<const uint64_t> TokenMask::Allowed(const GrammarState& state) {
  if (const auto found = young_.find(state); found != young_.end()) return *found->second;
  std::unique_ptr<Mask> mask;
  if (const auto found = old_.find(state); found != old_.end()) {
    mask = std::move(found->second);
    old_.erase(found);
  } else {
    mask = std::make_unique<Mask>(all_plain_.size());
    Fill(state, mask.get());
  }
  if (young_.size() >= max_cached_ / 2) old_ = std::exchange(young_, {});
  return *young_.emplace(state, std::move(mask)).first->second;
}

void TokenMask::Fill(const GrammarState& state, Mask* mask) {
  if (const auto room = grammar_->FreeCharacters(state)) {
    // Inside a string most tokens are plain text, whatever the schema; only the others need the automaton.
    const auto plain = tokens_->plain();
    if (plain.empty() || plain.back().characters <= *room) {
      *mask = all_plain_;
    } else {
      for (size_t i = 0; plain[i].characters <= *room; ++i) Set(mask, plain[i].id);
    }
    Walk(state, tokens_->marked(), mask);
  } else {
    Walk(state, tokens_->all(), mask);
  }
  for (const int32_t id : end_ids_) {
    uint64_t& word = (*mask)[id / 64];
    const uint64_t bit = uint64_t{1} << (id % 64);
    word = grammar_->AtEnd(state) ? word | bit : word & ~bit;
  }
}

void TokenMask::Walk(const GrammarState& state, const ByteTrie& trie, Mask* mask) {
  const auto nodes = trie.nodes();
  path_[0] = state;
  for (size_t i = 0; i < nodes.size();) {
    const ByteTrie::Node& node = nodes[i];
    path_[node.depth] = path_[node.depth - 1];
    if (!grammar_->Advance(&path_[node.depth], node.byte)) {
      i = node.next;
      continue;
    }
    for (const int32_t id : trie.IdsAt(i)) Set(mask, id);
    ++i;
  }
}

bool TokenMask::Advance(GrammarState* state, int32_t id) const {
  if (IsEnd(id)) return grammar_->AtEnd(*state);
  const std::string_view bytes = tokens_->Bytes(id);
  GrammarState next = *state;
  for (const char byte : bytes) {
    if (!grammar_->Advance(&next, static_cast<unsigned char>(byte))) return false;
  }
  *state = std::move(next);
  return !bytes.empty();
}

}  // namespace clamor
