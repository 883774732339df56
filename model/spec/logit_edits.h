// What changes the logits of one sequence before a token is drawn from them: penalties, biases, bans, and the
// first tokens of an answer that must not end it.
//
// The edits of a row depend on the text before its token alone, guesses on the way to it included: whatever
// is drafted, a text is that of plain decoding. In this order:
//
//     repetition     x > 0 ? x / p : x * p   of every token of prompt and answer (CTRL, arXiv 1909.05858)
//     presence       x -= a                  of every token of the answer
//     frequency      x -= b * times          likewise, for each time it is there
//     bias           x += bias[token]
//     bans           x = -infinity
//
// Threads: one at a time. Tested by tests/model/spec/logit_edits_test.cc.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "model/spec/sampler.h"

namespace clamor {

// When an answer may end by itself.
struct AnswerEnds {
  std::vector<int32_t> token_ids;  // each ends it
  int64_t min_tokens = 0;          // but none of the first tokens, as many as this, does
};

class LogitEdits {
 public:
  LogitEdits() = default;  // none
  // Of an answer of at most `max_tokens` after `prompt`. REQUIRES: all ids are below the vocabulary's size.
  LogitEdits(const SamplingOptions& options, const AnswerEnds& ends, std::span<const int32_t> prompt,
             int32_t max_tokens);

  // The answer has grown by one token. Allocates nothing.
  void Add(int32_t token);

  // Whether Apply would change nothing, whatever the path.
  bool empty() const { return !always_ && answer_tokens_ >= min_tokens_; }

  // Makes `edited` the logits of the token that follows the text and then `path`, guessed tokens of the
  // answer. logits: [vocab]; edited: [vocab], resized. Costs a copy and a few steps for each different token
  // of the text.
  void Apply(std::span<const int32_t> path, std::span<const float> logits, std::vector<float>& edited) const;

 private:
  bool penalizes() const { return repetition_ != 1 || presence_ != 0 || frequency_ != 0; }
  float Penalized(float logit, int32_t times) const;

  float repetition_ = 1, presence_ = 0, frequency_ = 0;
  std::vector<TokenBias> biases_;
  std::vector<int32_t> banned_;
  std::vector<int32_t> ends_;  // banned as well before min_tokens_
  int64_t min_tokens_ = 0;
  bool always_ = false;  // something other than min_tokens is asked for

  int64_t answer_tokens_ = 0;
  // How often each token is in the answer; with a repetition penalty tokens of the prompt alone are here too.
  absl::flat_hash_map<int32_t, int32_t> times_;
};

}  // namespace clamor
