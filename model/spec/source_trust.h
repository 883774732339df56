// How much better or worse than usual each source does in one text. Calibration says what evidence is worth
// on average over a tenant's texts; but one text copies its prompt, and the next never repeats itself.
//
// Threads: the engine's only. Tested by tests/model/spec/source_trust_test.cc.
#pragma once

#include <algorithm>
#include <array>

#include "model/spec/source.h"

namespace clamor {

class SourceTrust {
 public:
  SourceTrust() { odds_.fill(1); }

  // `mean`, a probability of being right, with its odds moved by what `source` did here.
  float Adjust(Source source, float mean) const {
    const float odds = odds_[static_cast<size_t>(source)] * mean;
    return odds / (1 - mean + odds);
  }

  // A proposal of `source` whose mean was `mean` has been put to the test.
  void Learn(Source source, float mean, bool hit) {
    Record& r = records_[static_cast<size_t>(source)];
    r = {.trials = kDecay * r.trials + 1,
         .hits = kDecay * r.hits + (hit ? 1.0f : 0.0f),
         .expected = kDecay * r.expected + mean};
    const float prior = source == Source::kContext || source == Source::kStore ? kTextPrior : kPrior;
    const float better = (r.hits + prior) / (r.expected + prior);
    const float worse = (r.trials - r.hits + prior) / (r.trials - r.expected + prior);
    odds_[static_cast<size_t>(source)] = std::clamp(better / worse, 1 / kMostOdds, kMostOdds);
  }

 private:
  static constexpr float kDecay = 0.99f;  // about the last hundred trials count
  // Trials that went as expected, of hits and of misses: texts differ most in how they repeat themselves and
  // others.
  static constexpr float kTextPrior = 4, kPrior = 25;
  static constexpr float kMostOdds = 8;
  struct Record {
    float trials = 0, hits = 0, expected = 0;
  };
  std::array<Record, kSources> records_{};
  std::array<float, kSources> odds_;
};

}  // namespace clamor
