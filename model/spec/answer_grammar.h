// Keeps one answer, and the guesses at it, within a grammar.
//
// As with other edits, which tokens a row allows depends on the text before its token alone. Threads: one at
// a time. Tested by tests/model/spec/answer_grammar_test.cc and tests/equivalence/sampling_test.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "model/grammar/token_mask.h"

namespace clamor {

class AnswerGrammar {
 public:
  AnswerGrammar() = default;  // none: any text
  // An answer from its beginning. One of `end_ids` ends it, where it is complete; at least one must be in the
  // vocabulary.
  AnswerGrammar(std::shared_ptr<const Grammar> grammar, std::shared_ptr<const TokenTrie> tokens,
                std::vector<int32_t> end_ids);

  bool empty() const { return mask_ == nullptr; }

  // The rest needs a grammar: REQUIRES: !empty().

  // Where the answer stands, to go on from along guesses.
  const GrammarState& state() const { return state_; }
  // Reads a token. False: the grammar has no text that goes on like that, and `state` is as it was.
  bool Advance(GrammarState* state, int32_t token) const { return mask_->Advance(state, token); }
  // The answer has grown by a token that Apply left. True if that was the end of it.
  bool Add(int32_t token) {
    mask_->Advance(&state_, token);
    return mask_->IsEnd(token);
  }

  // Makes -infinity what `edited` says of tokens that may not follow the answer and then `path`, guesses that
  // the grammar allows. If other edits leave none of those that may, they give way: what may follow is as the
  // model's own `logits` have it, and never -infinity or NaN. Both: [vocab].
  void Apply(std::span<const int32_t> path, std::span<const float> logits, std::span<float> edited);

 private:
  std::unique_ptr<TokenMask> mask_;
  GrammarState state_;
};

}  // namespace clamor
