// Penalties, biases and bans on the device: the bits of model/spec/logit_edits.h, for every row of a step.
//
// Tested by tests/kernels/cuda/conformance_test.cc.
#pragma once

#include <cstdint>

#include "kernels/cuda/stream.h"
#include "kernels/cuda/tree_attention.h"

namespace clamor::kernels::cuda {

// How often a token is in a sequence's answer; 0 where only the prompt has it.
struct TokenCount {
  int32_t token, times;
};
struct LogitBias {
  int32_t token;
  float bias;  // -infinity: never
};

// What a sequence changes its logits by. Each list is a part of an array that all sequences share.
struct SequenceEdits {
  float repetition, presence, frequency;  // 1, 0, 0: no penalty
  int32_t first_count, counts;            // of the text, by ascending token, each once
  int32_t first_bias, biases;             // each token once
  int32_t first_end, ends;                // tokens that end an answer, each once
  int32_t tokens_before_end;              // an answer's next tokens, as many as this, are none of those
};

struct EditLogitsArgs {
  float* logits;  // [rows, vocabulary], rows `stride` floats apart; edited in place
  int64_t stride;
  int64_t rows;
  const int32_t* which;           // [rows]: the row of the step that logits row r follows
  const AttentionRow* step_rows;  // of the step; `sequence` says whose edits they are
  const int32_t* tokens;          // of the step's rows
  const SequenceEdits* sequences;
  const TokenCount* counts;
  const LogitBias* biases;
  const int32_t* ends;
};

// The tokens of a row's ancestors, itself included but for the root, count as guessed tokens of the answer;
// the root and what is before it are in `counts`.
void EditLogits(const EditLogitsArgs& args, Stream stream);

}  // namespace clamor::kernels::cuda
