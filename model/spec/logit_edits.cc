#include "model/spec/logit_edits.h"

#include <algorithm>
#include <limits>

namespace clamor {

LogitEdits::LogitEdits(const SamplingOptions& options, const AnswerEnds& ends,
                       std::span<const int32_t> prompt, int32_t max_tokens)
    : repetition_(options.repetition_penalty),
      presence_(options.presence_penalty),
      frequency_(options.frequency_penalty),
      biases_(options.logit_bias),
      banned_(options.banned_token_ids),
      ends_(ends.token_ids),
      min_tokens_(ends.token_ids.empty() ? 0 : ends.min_tokens),
      always_(penalizes() || !biases_.empty() || !banned_.empty()) {
  if (!penalizes()) return;
  const size_t counted = repetition_ != 1 ? prompt.size() : 0;
  times_.reserve(counted + static_cast<size_t>(max_tokens));
  for (const int32_t token : prompt.first(counted)) times_[token] = 0;
}

void LogitEdits::Add(int32_t token) {
  ++answer_tokens_;
  if (penalizes()) ++times_[token];
}

float LogitEdits::Penalized(float logit, int32_t times) const {
  if (repetition_ != 1) logit = logit > 0 ? logit / repetition_ : logit * repetition_;
  if (times == 0) return logit;
  return logit - (presence_ + frequency_ * static_cast<float>(times));
}

void LogitEdits::Apply(std::span<const int32_t> path, std::span<const float> logits,
                       std::vector<float>& edited) const {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  edited.assign(logits.begin(), logits.end());
  if (penalizes()) {
    for (const auto& [token, times] : times_) edited[token] = Penalized(logits[token], times);
    for (const int32_t token : path) {
      const auto before = times_.find(token);
      const auto guessed = static_cast<int32_t>(std::count(path.begin(), path.end(), token));
      edited[token] = Penalized(logits[token], (before != times_.end() ? before->second : 0) + guessed);
    }
  }
  for (const auto& [token, bias] : biases_) edited[token] += bias;
  for (const int32_t token : banned_) edited[token] = kNever;
  if (answer_tokens_ + static_cast<int64_t>(path.size()) < min_tokens_) {
    for (const int32_t token : ends_) edited[token] = kNever;
  }
}

}  // namespace clamor
