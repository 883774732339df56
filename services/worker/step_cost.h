// What a step costs by its number of rows, and how many draft nodes are worth their cost.
//
// Tested by tests/services/worker/step_cost_test.cc.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace clamor {

class StepCost {
 public:
  static constexpr std::array<int32_t, 8> kRows = {1, 2, 4, 8, 16, 32, 64, 128};

  // `seconds` for a step of kRows[i] rows; entries <= 0 are unknown and extended from the last known one in
  // proportion. Until anything is known, every row costs the same and no node pays.
  void Set(const std::array<double, kRows.size()>& seconds);

  // Seconds of a step of `rows` >= 1 rows, linear between the measured sizes and beyond the last.
  double Seconds(int32_t rows) const;

  // Seconds to read `tokens` of a prompt, and how many of them a step of `rows` >= 1 rows may read beside
  // those so that it takes about twice as long; at least kLeastPrefill. Until anything is known: 0, and any
  // number.
  double PrefillSeconds(int64_t tokens) const;
  int32_t PrefillTokens(int32_t rows) const;

  // A step took `seconds` for `rows` rows and `prompt_tokens` more of prompts. Moves all sizes a little in that
  // direction, in steps that read no prompt the nearest most, in others the cost of a prompt's token most.
  void Refresh(int32_t rows, int32_t prompt_tokens, double seconds);

  // The number n of the best draft nodes for which (sequences + sum of the n largest survivals) /
  // Seconds(sequences + n) is greatest, 0 if no n gains at least 3 %. `survivals` must be in descending
  // order.
  int32_t BestNodes(int32_t sequences, std::span<const float> survivals) const;

 private:
  static constexpr int32_t kLeastPrefill = 8;

  std::array<double, kRows.size()> seconds_{};
  double prefill_seconds_ = 0;  // of one token
};

}  // namespace clamor
