// What the model is asked, as the flags say it.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "services/worker/loaded_model.h"

namespace clamor::cli {

// Text, ids or a conversation.
using Prompt = std::variant<std::string, std::vector<int32_t>, std::vector<ChatMessage>>;

struct PromptFlags {
  std::string text, file, ids;
  bool chat = false;
};

// --prompt, --prompt-file, --ids and (if `with_chat`) --chat, exactly one of the first three.
void AddPromptFlags(CLI::App& verb, PromptFlags& flags, bool with_chat);

// NOT_FOUND names an unreadable file; a usage error names a flag.
absl::StatusOr<Prompt> ReadPrompt(const PromptFlags& flags);

// "1,2,3", white space allowed around the numbers. A usage error names the piece that is no token id.
absl::StatusOr<std::vector<int32_t>> ParseIds(absl::string_view text);

// Ids of `prompt` for `model`: text is trusted (special tokens are parsed), messages go through the template.
// INVALID_ARGUMENT for an empty prompt and ids outside the vocabulary.
absl::StatusOr<std::vector<int32_t>> EncodePrompt(const LoadedModel& model, const Prompt& prompt);

// FAILED_PRECONDITION if the model has no template.
absl::StatusOr<std::vector<int32_t>> EncodeChat(const LoadedModel& model,
                                                const std::vector<ChatMessage>& messages);

}  // namespace clamor::cli
