// A record of a training file as samples: the ids that inference would see, and which of them to learn.
//
// Stateless; calls may come from any thread. Tested by tests/model/train/record_encoder_test.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/text_record.h"
#include "model/tokenizer/chat_template.h"
#include "model/tokenizer/tokenizer.h"
#include "model/train/sample.h"

namespace clamor {

// How a model reads text. Pointers must outlive who holds this.
struct DatasetTexts {
  const Tokenizer* tokenizer = nullptr;
  const ChatTemplate* chat_template = nullptr;  // null if the model has none
  std::vector<int32_t> eos_ids;  // as GenerationDefaults'; the first closes what no template closes
  int32_t vocab_size = 0;        // of the model
};

// A fault of the data, not of the run: INVALID_ARGUMENT that remembers its kind ("invalid JSON", "too long"),
// by which faults are counted.
absl::Status BadSampleError(absl::string_view kind, absl::string_view what);
std::optional<std::string> BadSampleKind(const absl::Status& status);  // nothing for any other status

// Samples of at most `max_length` tokens.
//
// Conversations go through the model's chat template: before each answer stands ChatTemplate::Encode of the
// messages before it. The answer is its content as plain text, special tokens in it being text, and then what
// the template writes behind an answer, up to the first eos; without one up to the first special token, and
// then the first of eos_ids, for inference stops at nothing else. All answers of a conversation make one
// sample, as long as the template repeats earlier answers as they were written; at an answer before which it
// does not (some trim an answer, or drop earlier reasoning) a new sample begins, so that every answer is
// learnt once, behind exactly what inference would see. What follows the last answer is left out.
//
// A prompt and its response are a conversation of two turns; without a template they are the prompt as the
// gateway encodes text, the response as plain text, and eos. A text is encoded as the gateway encodes text,
// plus eos unless it ends with one; all of it behind the first token is learnt.
//
// Faults, with their kinds: "template" (it refuses the conversation, or there is none), "role" (none of
// system, developer, user, assistant, tool), "no response" (no answer, or an empty one), "too short" (fewer
// than two tokens), "too long". FAILED_PRECONDITION, which is no fault of the data, names a token that the
// model does not have.
absl::StatusOr<std::vector<Sample>> EncodeRecord(const TextRecord& record, const DatasetTexts& texts,
                                                 int32_t max_length);

}  // namespace clamor
