// Draws the target token of a row of logits. The draw is a function of (logits, options, position) alone, so
// drafting, batching and replay cannot change a text.
//
// Tested by tests/model/spec/sampler_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace clamor {

struct TokenBias {
  int32_t token = 0;
  float bias = 0;
};

struct SamplingOptions {
  static constexpr size_t kMaxBiases = 1024, kMaxBanned = 1024;

  float temperature = 0;  // 0: greedy, else > 0
  int32_t top_k = 0;      // keep the k most likely, 0: all
  float top_p = 1;        // then the fewest whose probabilities reach p, 0 < p <= 1
  float min_p = 0;        // then those with at least min_p times the best's probability, 0 <= min_p <= 1
  uint64_t seed = 0;

  // What changes the logits before all of this, at temperature 0 as well; see model/spec/logit_edits.h.
  float repetition_penalty = 1;           // of tokens of prompt and answer, 0.01 to 100; 1: none
  float presence_penalty = 0;             // of tokens of the answer, -2 to 2
  float frequency_penalty = 0;            // of tokens of the answer, for each time, -2 to 2
  std::vector<TokenBias> logit_bias;      // added, each -100 to 100; at most kMaxBiases
  std::vector<int32_t> banned_token_ids;  // never drawn; at most kMaxBanned

  bool greedy() const { return temperature == 0; }
  bool filters() const { return top_k > 0 || top_p < 1 || min_p > 0; }
  // INVALID_ARGUMENT names field, value and range.
  absl::Status Validate(int32_t vocab_size = std::numeric_limits<int32_t>::max()) const;
};

// INVALID_ARGUMENT names the first of `ids` outside [0, vocab_size) as an element of `field`.
absl::Status CheckTokenIds(absl::string_view field, std::span<const int32_t> ids, int32_t vocab_size);

// Standard Gumbel noise of token `token` at absolute position `position` (Philox 4x32-10, Salmon et al., SC
// 2011, keyed by seed, counter (token, position)): -log(-log(u)) with u in (0, 1).
float GumbelNoise(uint64_t seed, int64_t position, int32_t token);

class Sampler {
 public:
  // argmax over the tokens that top-k, then top-p, then min-p leave of logit / temperature +
  // GumbelNoise(seed, position, token); temperature 0: argmax of the logits. Ties go to the lowest id, so
  // that 0 is drawn where every logit is -infinity. `logits` are edited already where the options ask for it.
  // Scratch memory is reused: one Sampler a thread.
  int32_t Draw(std::span<const float> logits, const SamplingOptions& options, int64_t position);

 private:
  std::vector<float> scaled_;
  std::vector<int32_t> order_;
};

}  // namespace clamor
