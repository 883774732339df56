#include "model/spec/answer_grammar.h"

#include <cmath>
#include <limits>
#include <utility>

namespace clamor {

AnswerGrammar::AnswerGrammar(std::shared_ptr<const Grammar> grammar, std::shared_ptr<const TokenTrie> tokens,
                             std::vector<int32_t> end_ids)
    : mask_(std::make_unique<TokenMask>(std::move(grammar), std::move(tokens), std::move(end_ids))),
      state_(mask_->grammar().Start()) {}

void AnswerGrammar::Apply(std::span<const int32_t> path, std::span<const float> logits,
                          std::span<float> edited) {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  constexpr float kLeast = std::numeric_limits<float>::lowest();
  GrammarState state = state_;
  for (const int32_t token : path) mask_->Advance(&state, token);
  const std::span<const uint64_t> allowed = mask_->Allowed(state);
  const auto may = [allowed](size_t id) {
    return id / 64 < allowed.size() && (allowed[id / 64] >> (id % 64) & 1) != 0;
  };
  bool any = false;
  for (size_t id = 0; id < edited.size(); ++id) {
    if (!may(id) || std::isnan(edited[id])) edited[id] = kNever;
    any |= edited[id] != kNever;
  }
  for (size_t id = 0; !any && id < edited.size(); ++id) {
    if (may(id)) edited[id] = logits[id] > kLeast ? logits[id] : kLeast;  // NaN is not
  }
}

}  // namespace clamor
