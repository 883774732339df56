// Whether drafting pays, measured while it runs: about one drafting step in sixty-four runs plain instead, as
// a control, and where drafting turns out slower than plain decoding, it pauses.
//
// Threads: the engine's only. Tested by tests/services/worker/speculation_guard_test.cc.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

namespace clamor {

class SpeculationGuard {
 public:
  // Of a step of `sequences` >= 1 that decode with drafts that the budget chose: whether to run it plain all
  // the same, as a control or because drafting pauses for steps of about as many sequences.
  bool RunPlain(int32_t sequences);

  // A step, with drafts or without, emitted `tokens` >= 1 for `sequences` >= 1 and read no prompt.
  void Add(int32_t sequences, bool drafted, double seconds, int32_t tokens);

  // Tokens per second of steps with drafts over that of steps without, of those of about as many sequences as
  // the last; NaN until both were seen.
  double ratio() const { return ratio_; }

 private:
  static constexpr int32_t kControlEvery = 64;
  static constexpr int32_t kJudgedAfter = 200;  // steps with drafts
  static constexpr double kLeastRatio = 0.98;
  static constexpr int32_t kFirstPause = 64, kLongestPause = 4096;  // steps

  // Totals in which a step counts for half after as many as it takes for its kind to be judged again.
  struct Totals {
    double seconds = 0, tokens = 0;
    void Add(double more_seconds, int32_t more_tokens, double decay) {
      seconds = seconds * decay + more_seconds;
      tokens = tokens * decay + more_tokens;
    }
    double rate() const { return tokens / seconds; }
  };
  // Of steps of about as many sequences: within a factor of two.
  struct Size {
    Totals drafted, plain;
    int32_t drafted_steps = 0;  // since the last pause
    int32_t until_control = kControlEvery;
    int32_t pause = kFirstPause, paused = 0;  // the next one's length; steps left of this one
  };
  Size& SizeOf(int32_t sequences);

  std::array<Size, 12> sizes_;  // by log2 of the sequences
  double ratio_ = NAN;
};

}  // namespace clamor
