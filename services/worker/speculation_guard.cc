#include "services/worker/speculation_guard.h"

#include <algorithm>

namespace clamor {

SpeculationGuard::Size& SpeculationGuard::SizeOf(int32_t sequences) {
  return sizes_[std::min<size_t>(std::ilogb(sequences), sizes_.size() - 1)];
}

bool SpeculationGuard::RunPlain(int32_t sequences) {
  Size& size = SizeOf(sequences);
  if (size.paused > 0) {
    --size.paused;
    return true;
  }
  if (--size.until_control > 0) return false;
  size.until_control = kControlEvery;
  return true;
}

void SpeculationGuard::Add(int32_t sequences, bool drafted, double seconds, int32_t tokens) {
  constexpr double kDraftedDecay = 0.9965;  // half in 200 steps
  constexpr double kPlainDecay = 0.95;      // half in 14: as many controls as fall into twice that time
  Size& size = SizeOf(sequences);
  if (drafted) {
    size.drafted.Add(seconds, tokens, kDraftedDecay);
    ++size.drafted_steps;
  } else {
    size.plain.Add(seconds, tokens, kPlainDecay);
  }
  if (size.drafted.tokens == 0 || size.plain.tokens == 0) return;
  ratio_ = size.drafted.rate() / size.plain.rate();
  if (size.drafted_steps < kJudgedAfter) return;
  if (ratio_ >= kLeastRatio) {
    size.pause = kFirstPause;
    size.drafted_steps = 0;
    return;
  }
  // What comes after the pause is judged by itself, and if it is no better, the next pause is longer.
  size.paused = size.pause;
  size.pause = std::min(2 * size.pause, kLongestPause);
  size.drafted = {};
  size.drafted_steps = 0;
}

}  // namespace clamor
