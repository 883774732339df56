// Requests of OpenAI's API as the gateway's own: pure translation. README.md lists the fields.
//
// A field that would change the answer and is not supported is refused by its name, never passed over;
// whether values are within the limits is the gateway's to say. Errors are INVALID_ARGUMENT and begin with
// the field. Tested by tests/services/edge/openai_request_test.cc.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "clamor/v1/generation.pb.h"

namespace clamor::edge {

// What the answer should look like.
struct ReplyForm {
  bool stream = false;
  bool usage_last = false;    // a chunk of its own at the end
  bool usage_always = false;  // in every chunk
  bool logprobs = false;
  uint32_t top_logprobs = 0;
  // Our extension, the request's field `clamor`.
  bool stats = false;   // statistics of speculation with the finish reason
  bool tokens = false;  // each token's text and who drafted it
  bool trees = false;   // of streams: what was guessed in each step
};

struct ChatCall {
  v1::ChatRequest request;
  ReplyForm form;
};
struct CompletionCall {
  v1::GenerateRequest request;
  ReplyForm form;
};

// `body` is what the client sent; time and memory are bounded by its size.
absl::StatusOr<ChatCall> ParseChat(std::string_view body);
absl::StatusOr<CompletionCall> ParseCompletion(std::string_view body);

}  // namespace clamor::edge
