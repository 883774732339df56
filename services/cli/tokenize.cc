// `clamor tokenize` and `clamor detokenize`: text to ids and back, as JSON.
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "nlohmann/json.hpp"
#include "services/cli/command.h"
#include "services/cli/prompt.h"

namespace clamor::cli {
namespace {

struct Flags {
  std::string model;
  std::string text;
  bool text_given = false;
  std::string ids;
  bool no_specials = false;
  bool chat = false;
};

std::string ReadStandardInput() {
  return std::string(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
}

absl::Status Tokenize(const Flags& flags) {
  CLAMOR_ASSIGN_OR_RETURN(const LoadedModel model, LoadTokenizer(flags.model));
  const std::string text = flags.text_given ? flags.text : ReadStandardInput();
  std::vector<int32_t> ids;
  if (flags.chat) {
    CLAMOR_ASSIGN_OR_RETURN(ids, EncodeChat(model, {{"user", text}}));
  } else {
    const Tokenizer::EncodeOptions options{
        .add_specials = !flags.no_specials,
        .specials = flags.no_specials ? Tokenizer::Specials::kPlainText : Tokenizer::Specials::kParse};
    CLAMOR_ASSIGN_OR_RETURN(ids, model.tokenizer->Encode(text, options));
  }
  std::printf("%s\n", nlohmann::ordered_json{{"ids", ids}}.dump().c_str());
  return absl::OkStatus();
}

absl::Status Detokenize(const Flags& flags) {
  CLAMOR_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                          ParseIds(flags.ids.empty() ? ReadStandardInput() : flags.ids));
  CLAMOR_ASSIGN_OR_RETURN(const LoadedModel model, LoadTokenizer(flags.model));
  CLAMOR_ASSIGN_OR_RETURN(const std::string text, model.tokenizer->Decode(ids, flags.no_specials));
  std::printf("%s\n", nlohmann::ordered_json{{"text", text}}.dump().c_str());
  return absl::OkStatus();
}

}  // namespace

void AddTokenize(CLI::App& app, Run& run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand("tokenize", "Text to token ids, as JSON");
  verb->add_option("--model", flags->model, "Hugging Face model directory")->required();
  CLI::Option* text = verb->add_option("--text", flags->text, "The text; standard input if not given");
  CLI::Option* no_specials = verb->add_flag("--no-specials", flags->no_specials,
                                            "Add no BOS and the like; special tokens in the text stay text");
  verb->add_flag("--chat", flags->chat, "The text as a user's message, through the model's template")
      ->excludes(no_specials);
  verb->callback([flags, text, &run] {
    flags->text_given = text->count() > 0;
    run = [flags] { return Tokenize(*flags); };
  });
}

void AddDetokenize(CLI::App& app, Run& run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand("detokenize", "Token ids to text, as JSON");
  verb->add_option("--model", flags->model, "Hugging Face model directory")->required();
  verb->add_option("--ids", flags->ids, "Ids with commas between; standard input if not given");
  verb->add_flag("--no-specials", flags->no_specials, "Leave special tokens out of the text");
  verb->callback([flags, &run] { run = [flags] { return Detokenize(*flags); }; });
}

}  // namespace clamor::cli
