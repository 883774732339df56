// `clamor generate`: one prompt, one answer or several, as they come or as JSON objects.
#include <cstdio>
#include <memory>

#include "kernels/status_macros.h"
#include "services/cli/answer_printer.h"
#include "services/cli/command.h"
#include "services/cli/generation_flags.h"
#include "services/cli/prompt.h"

namespace clamor::cli {
namespace {

struct Flags {
  GenerationFlags generation;
  PromptFlags prompt;
  std::string output = "text";
  int answers = 1;
};

absl::StatusOr<Answer> GenerateOne(const Question& question, Generator& generator, const Flags& flags) {
  const bool json = flags.output == "json";
  AnswerPrinter printer(flags.generation.show_drafts);
  CLAMOR_ASSIGN_OR_RETURN(Answer answer, generator.Generate(question, [&](const Delta& delta) {
    if (!json) printer.Print(delta);
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
  return answer;
}

absl::Status Generate(const Flags& flags) {
  const bool json = flags.output == "json";
  if (json && flags.generation.show_drafts) return UsageError("--show-drafts colours text, --output is json");
  CLAMOR_ASSIGN_OR_RETURN(Question question, QuestionWith(flags.generation));
  CLAMOR_ASSIGN_OR_RETURN(question.prompt, ReadPrompt(flags.prompt));
  CLAMOR_ASSIGN_OR_RETURN(const std::unique_ptr<Generator> generator,
                          MakeGenerator(flags.generation, question.options, json));
  Interrupted();  // from here on Ctrl-C ends the answer, not the process

  for (int i = 0; i < flags.answers; ++i) {
    if (i > 0 && !json) std::printf("---\n");
    CLAMOR_ASSIGN_OR_RETURN(const Answer answer, GenerateOne(question, *generator, flags));
    question.seed = answer.seed + 1;
  }
  return absl::OkStatus();
}

}  // namespace

void AddGenerate(CLI::App& app, Run& run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand("generate", "Continue a prompt, in this process or at a gateway");
  AddPromptFlags(*verb, flags->prompt, /*with_chat=*/true);
  AddGenerationFlags(*verb, flags->generation);
  verb->add_option("--n", flags->answers, "Answers, one after the other, with seeds that follow each other")
      ->check(CLI::Range(1, 1 << 20))
      ->group("Answer");
  verb->add_option("--output", flags->output, "text or json")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  verb->callback([flags, &run] { run = [flags] { return Generate(*flags); }; });
}

}  // namespace clamor::cli
