#include "services/worker/step_cost.h"

#include <algorithm>
#include <limits>

namespace clamor {

void StepCost::Set(const std::array<double, kRows.size()>& seconds) {
  seconds_ = seconds;
  for (size_t i = 1; i < kRows.size(); ++i) {
    if (seconds_[i] <= 0) seconds_[i] = seconds_[i - 1] * kRows[i] / kRows[i - 1];
    seconds_[i] = std::max(seconds_[i], seconds_[i - 1]);  // noise must not make more rows cheaper
  }
  prefill_seconds_ = seconds_.back() / kRows.back();
}

double StepCost::Seconds(int32_t rows) const {
  if (seconds_[0] <= 0) return rows;
  const size_t last = kRows.size() - 1;
  if (rows >= kRows[last]) return seconds_[last] * rows / kRows[last];
  size_t i = 0;
  while (kRows[i + 1] <= rows) ++i;
  const double share = static_cast<double>(rows - kRows[i]) / (kRows[i + 1] - kRows[i]);
  return seconds_[i] + share * (seconds_[i + 1] - seconds_[i]);
}

double StepCost::PrefillSeconds(int64_t tokens) const {
  return prefill_seconds_ * static_cast<double>(tokens);
}

int32_t StepCost::PrefillTokens(int32_t rows) const {
  if (prefill_seconds_ <= 0) return std::numeric_limits<int32_t>::max();
  return std::max(kLeastPrefill, static_cast<int32_t>(std::min(1e9, Seconds(rows) / prefill_seconds_)));
}

void StepCost::Refresh(int32_t rows, int32_t prompt_tokens, double seconds) {
  if (seconds_[0] <= 0) return;
  if (prompt_tokens > 0) {
    // A prompt's tokens cost less than a tree's, as nobody wants their logits, and more the longer it is.
    // What a step took too long is laid to both parts by their share: else the few tokens beside large trees
    // would pay for whatever the trees are misjudged by.
    constexpr double kWeight = 0.1, kCommonWeight = 0.025;
    const double reading = prefill_seconds_ * prompt_tokens, decoding = rows > 0 ? Seconds(rows) : 0;
    const double share = reading / (reading + decoding);
    const double excess = std::clamp(seconds / (reading + decoding), 0.5, 2.0) - 1;
    prefill_seconds_ *= 1 + kWeight * excess * share;
    for (double& s : seconds_) s *= 1 + kCommonWeight * excess * (1 - share);
    return;
  }
  if (rows < 1) return;
  size_t nearest = 0;
  for (size_t i = 1; i < kRows.size(); ++i) {
    if (2 * rows >= kRows[i - 1] + kRows[i]) nearest = i;
  }
  // Most of what changes, changes for all sizes alike: a neighbour that came or went, a longer context.
  // Without that share, sizes that are not in use would keep the cost of a bad hour for ever.
  constexpr double kCommonWeight = 0.025, kOwnWeight = 0.02;
  const double excess = std::clamp(seconds / Seconds(rows), 0.5, 2.0) - 1;
  for (double& s : seconds_) s *= 1 + kCommonWeight * excess;
  seconds_[nearest] *= 1 + kOwnWeight * excess;
  // More rows never cost less: a neighbour that the new value passed moves with it.
  for (size_t i = nearest; i + 1 < kRows.size(); ++i)
    seconds_[i + 1] = std::max(seconds_[i + 1], seconds_[i]);
  for (size_t i = nearest; i > 0; --i) seconds_[i - 1] = std::min(seconds_[i - 1], seconds_[i]);
}

int32_t StepCost::BestNodes(int32_t sequences, std::span<const float> survivals) const {
  constexpr double kLeastGain = 1.03;
  double tokens = sequences;
  double best = kLeastGain * tokens / Seconds(sequences);
  int32_t nodes = 0;
  for (size_t n = 1; n <= survivals.size(); ++n) {
    tokens += survivals[n - 1];
    const double rate = tokens / Seconds(sequences + static_cast<int32_t>(n));
    if (rate > best) {
      best = rate;
      nodes = static_cast<int32_t>(n);
    }
  }
  return nodes;
}

}  // namespace clamor
