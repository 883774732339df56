// Draws the target token of a row of logits. The draw is a function of (logits, options, position) alone, so
// drafting, batching and replay cannot change a text.
//
// Tested by tests/model/spec/sampler_test.cc.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"

namespace clamor {

struct SamplingOptions {
  float temperature = 0;  // 0: greedy, else > 0
  int32_t top_k = 0;      // keep the k most likely, 0: all
  float top_p = 1;        // then the fewest whose probabilities reach p, 0 < p <= 1
  float min_p = 0;        // then those with at least min_p times the best's probability, 0 <= min_p <= 1
  uint64_t seed = 0;

  bool greedy() const { return temperature == 0; }
  absl::Status Validate() const;  // INVALID_ARGUMENT names field and value
};

// Standard Gumbel noise of token `token` at absolute position `position` (Philox 4x32-10, Salmon et al., SC
// 2011, keyed by seed, counter (token, position)): -log(-log(u)) with u in (0, 1).
float GumbelNoise(uint64_t seed, int64_t position, int32_t token);

class Sampler {
 public:
  // argmax over the tokens that top-k, then top-p, then min-p leave of logit / temperature +
  // GumbelNoise(seed, position, token); temperature 0: argmax of the logits. Ties go to the lowest id.
  // Scratch memory is reused: one Sampler a thread.
  int32_t Draw(std::span<const float> logits, const SamplingOptions& options, int64_t position);

 private:
  std::vector<float> scaled_;
  std::vector<int32_t> order_;
};

}  // namespace clamor
