// `clamor generate`: one prompt, one answer, as it comes or as one JSON object.
#include <cstdio>
#include <memory>

#include "kernels/status_macros.h"
#include "services/cli/command.h"
#include "services/cli/generation_flags.h"
#include "services/cli/prompt.h"

namespace clamor::cli {
namespace {

struct Flags {
  GenerationFlags generation;
  PromptFlags prompt;
  std::string output = "text";
};

absl::Status Generate(const Flags& flags) {
  const bool json = flags.output == "json";
  Question question;
  CLAMOR_ASSIGN_OR_RETURN(question.prompt, ReadPrompt(flags.prompt));
  CLAMOR_ASSIGN_OR_RETURN(question.options, RequestOptions(flags.generation));
  question.seed = flags.generation.seed;
  CLAMOR_ASSIGN_OR_RETURN(const std::unique_ptr<Generator> generator,
                          MakeGenerator(flags.generation, question.options, json));
  Interrupted();  // from here on Ctrl-C ends the answer, not the process

  CLAMOR_ASSIGN_OR_RETURN(const Answer answer, generator->Generate(question, [json](const Delta& delta) {
    if (json) return;
    std::fwrite(delta.text.data(), 1, delta.text.size(), stdout);
    std::fflush(stdout);
  }));
  if (json) {
    std::printf("%s\n",
                answer.ToJson().dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  } else {
    std::printf("\n");
    std::fflush(stdout);
    std::fprintf(stderr, "%s\n", answer.SpeedLine().c_str());
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout))
    return absl::DataLossError("standard output: cannot write");
  if (answer.finish_reason == "cancelled") return absl::CancelledError("cancelled");
  return absl::OkStatus();
}

}  // namespace

void AddGenerate(CLI::App& app, Run& run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand("generate", "Continue a prompt, in this process or at a gateway");
  AddPromptFlags(*verb, flags->prompt, /*with_chat=*/true);
  AddGenerationFlags(*verb, flags->generation);
  verb->add_option("--output", flags->output, "text or json")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  verb->callback([flags, &run] { run = [flags] { return Generate(*flags); }; });
}

}  // namespace clamor::cli
