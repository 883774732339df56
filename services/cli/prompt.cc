#include "services/cli/prompt.h"

#include <fstream>
#include <iterator>
#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/status_macros.h"
#include "services/cli/command.h"

namespace clamor::cli {

void AddPromptFlags(CLI::App& verb, PromptFlags& flags, bool with_chat) {
  CLI::Option* text = verb.add_option("--prompt", flags.text, "The prompt")->group("Prompt");
  CLI::Option* file =
      verb.add_option("--prompt-file", flags.file, "Read the prompt from this file")->group("Prompt");
  CLI::Option* ids = verb.add_option("--ids", flags.ids, "The prompt as token ids: 1,2,3")->group("Prompt");
  text->excludes(file)->excludes(ids);
  file->excludes(ids);
  if (with_chat) {
    verb.add_flag("--chat", flags.chat, "The prompt as a user's message, through the model's template")
        ->excludes(ids)
        ->group("Prompt");
  }
}

absl::StatusOr<Prompt> ReadPrompt(const PromptFlags& flags) {
  if (!flags.ids.empty()) {
    CLAMOR_ASSIGN_OR_RETURN(std::vector<int32_t> ids, ParseIds(flags.ids));
    return Prompt(std::move(ids));
  }
  std::string text = flags.text;
  if (!flags.file.empty()) {
    std::ifstream file(flags.file, std::ios::binary);
    if (!file) return absl::NotFoundError(absl::StrCat("--prompt-file: cannot read ", flags.file));
    text.assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    if (file.bad()) return absl::UnavailableError(absl::StrCat("--prompt-file: cannot read ", flags.file));
  }
  if (text.empty()) return UsageError("no prompt: give --prompt, --prompt-file or --ids, not empty");
  if (flags.chat) return Prompt(std::vector<ChatMessage>{{"user", std::move(text)}});
  return Prompt(std::move(text));
}

absl::StatusOr<std::vector<int32_t>> ParseIds(absl::string_view text) {
  std::vector<int32_t> ids;
  text = absl::StripAsciiWhitespace(text);
  if (text.empty()) return UsageError("--ids is empty");
  for (absl::string_view piece : absl::StrSplit(text, ',')) {
    int32_t id = 0;
    if (!absl::SimpleAtoi(piece, &id) || id < 0) {
      return UsageError(absl::StrCat("--ids: '", piece.substr(0, 40), "' is no token id (0 to ",
                                     std::numeric_limits<int32_t>::max(), ")"));
    }
    ids.push_back(id);
  }
  return ids;
}

absl::StatusOr<std::vector<int32_t>> EncodeChat(const LoadedModel& model,
                                                const std::vector<ChatMessage>& messages) {
  if (model.chat_template == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat(model.name, " has no chat template (chat_template.jinja or tokenizer_config.json)"));
  }
  return model.chat_template->Encode(messages);
}

absl::StatusOr<std::vector<int32_t>> EncodePrompt(const LoadedModel& model, const Prompt& prompt) {
  std::vector<int32_t> ids;
  if (const auto* text = std::get_if<std::string>(&prompt)) {
    CLAMOR_ASSIGN_OR_RETURN(ids, model.tokenizer->Encode(*text, {}));
  } else if (const auto* messages = std::get_if<std::vector<ChatMessage>>(&prompt)) {
    CLAMOR_ASSIGN_OR_RETURN(ids, EncodeChat(model, *messages));
  } else {
    ids = std::get<std::vector<int32_t>>(prompt);
  }
  if (ids.empty()) return absl::InvalidArgumentError("the prompt has no tokens");
  const int32_t vocab = model.transformer->config().vocab_size;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab) {
      return absl::InvalidArgumentError(
          absl::StrCat("prompt id ", ids[i], " at index ", i, " is outside the vocabulary of ", vocab));
    }
  }
  return ids;
}

}  // namespace clamor::cli
