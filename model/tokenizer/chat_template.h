// Renders conversations with a model's own chat template: the subset of Jinja that templates in the wild use.
//
// Templates are untrusted: output, steps and nesting are bounded and nothing outside the given values can be
// reached. Special tokens that stand inside a message's content stay text (Encode), so a user cannot forge a
// turn. Immutable after Load; every method may be called from any thread. Tested by
// tests/model/tokenizer/chat_template_test.cc.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/tokenizer/tokenizer.h"
#include "nlohmann/json.hpp"

namespace clamor {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant", "tool"
  std::string content;
};

class ChatTemplate {
 public:
  // Takes `chat_template.jinja`, else the field `chat_template` of tokenizer_config.json (a string, or a list
  // of named templates of which "default" is used). NOT_FOUND if the directory has none. INVALID_ARGUMENT
  // names line and construct of what is not understood. `tokenizer` must outlive this.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Load(const TokenizerFiles& files,
                                                            const Tokenizer* tokenizer);
  ~ChatTemplate();

  // The text as transformers renders it (trim_blocks and lstrip_blocks on). `messages` is the JSON array of
  // OpenAI-style messages; `options` are further variables (add_generation_prompt, tools, enable_thinking,
  // ...). Objects are ordered, for a template may print them. INVALID_ARGUMENT carries the text of
  // raise_exception; RESOURCE_EXHAUSTED names the limit that was hit.
  absl::StatusOr<std::string> Render(const nlohmann::ordered_json& messages,
                                     const nlohmann::ordered_json& options) const;

  // Renders and encodes for generation (add_generation_prompt = true), with special tokens taken from the
  // template's own text and from bos/eos only; the content of messages is plain text throughout. Without
  // special tokens in contents the ids are those of Tokenizer::Encode(Render(..)) without the post-processor.
  // INVALID_ARGUMENT for a role that is not a word of letters, digits, '_' and '-', and for content that is
  // not valid UTF-8; it names the message.
  absl::StatusOr<std::vector<int32_t>> Encode(const std::vector<ChatMessage>& messages) const;

 private:
  ChatTemplate();
  struct Rep;
  std::unique_ptr<const Rep> rep_;
};

}  // namespace clamor
