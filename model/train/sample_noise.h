// MSN noise ("Make Some Noise", arXiv 2406.17404): inputs of a few stretches of a response are replaced by
// wrong tokens while the labels stay clean, so that the model learns to write on behind its own bad guesses.
//
// Pure functions of their arguments. Tested by tests/model/train/sample_noise_test.cc.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/train/sample.h"

namespace clamor {

class Tokenizer;

// What a replaced input becomes.
enum class NoiseKind {
  kNone,     // nothing is replaced: ordinary fine-tuning
  kAhead,    // a token of the inputs before it, each place equally likely
  kUniform,  // a token of the vocabulary, each equally likely
  kJacobi,   // as kAhead, for the trainer to overwrite with what the model says there (arXiv 2512.14681)
};
absl::StatusOr<NoiseKind> ParseNoiseKind(std::string_view name);  // "none", "ahead", "uniform", "jacobi"
std::string_view NoiseKindName(NoiseKind kind);

struct NoiseOptions {
  NoiseKind kind = NoiseKind::kAhead;
  int32_t length = 5;    // inputs in a row
  int32_t segments = 1;  // such rows in a sample; deploy/demo-model/README.md has what more of them do

  // INVALID_ARGUMENT names the field, its value and its range.
  absl::Status Validate() const;
};

// Tokens of a response that a segment needs: the input of its last token leads to nothing in the response,
// and the published rule, start = randrange(len(prompt), len(ids) - length), leaves it clean.
inline int32_t ResponseTokensForNoise(const NoiseOptions& options) {
  return options.kind == NoiseKind::kNone ? 0 : options.length + 1;
}

// The tokens that noise may be made of: ids below `size` that are not special.
struct NoiseVocabulary {
  int32_t size = 0;               // of the tokenizer: a wider head has rows that stand for nothing
  std::vector<int32_t> specials;  // ascending; neither drawn nor replaced

  static NoiseVocabulary Of(const Tokenizer& tokenizer);
  bool IsSpecial(int32_t id) const;
};

// The sample's inputs with `options.segments` disjoint segments replaced, each inside one response and
// starting at any place still free with equal chance; fewer where no more fit. Segments are filled from left
// to right, so a draw may copy noise, but never a token of another sample. Special tokens are not drawn and
// not replaced, and a position with nothing to draw from stays clean.
//
// `noised` receives the replaced positions as ascending runs: segments without their special tokens.
// `state` decides everything: MixSeed(seed, epoch, sample) makes a run repeatable.
// REQUIRES: options.Validate().ok().
std::vector<int32_t> NoisyInputs(const Sample& sample, const NoiseOptions& options,
                                 const NoiseVocabulary& vocabulary, uint64_t state,
                                 std::vector<Span>* noised);

}  // namespace clamor
