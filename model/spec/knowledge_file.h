// What drafting has learned, as the bytes of a file, so that who starts again drafts as well as before.
//
//     "CLMRKNOW", version, vocabulary, counts, entries, tokenizer  | what follows, and for which token ids
//     counts of `greedy`, then of `sampled`                        | float32, see Calibration::Save
//     entries                                                      | a token, 8 successors, 8
//     log-probabilities SHA-256 of all of the above                                  | 64 hex digits, as is
//     `tokenizer`
//
// Little-endian, without padding. Pure functions. Tested by tests/model/spec/knowledge_file_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "model/spec/merged_drafter.h"

namespace clamor {

// Bytes of a file with this many tokens in its table; with the size of the vocabulary, the most that any has.
size_t KnowledgeFileBytes(size_t entries);

// `tokenizer` says what the ids mean, in any words.
std::string EncodeKnowledge(const DraftKnowledge& knowledge, int32_t vocab_size, std::string_view tokenizer);

// Believes nothing: INVALID_ARGUMENT (the field, and both values) unless `file` is whole and for the same
// vocabulary and tokenizer, all ids are in [0, vocab_size) or -1, and all numbers are possible. Allocates no
// more than the file is large. Wrong but possible knowledge costs drafts and nothing else.
absl::StatusOr<DraftKnowledge> DecodeKnowledge(std::string_view file, int32_t vocab_size,
                                               std::string_view tokenizer);

}  // namespace clamor
