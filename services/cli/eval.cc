// `clamor eval`: the prompts of a suite answered by plain decoding and by drafting, side by side; or, for the
// suite perplexity, documents read with weights held in two ways.
#include <algorithm>
#include <cstdio>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/cpu_target.h"
#include "kernels/status_macros.h"
#include "services/cli/command.h"
#include "services/cli/eval_mode.h"
#include "services/cli/eval_perplexity.h"
#include "services/cli/eval_report.h"
#include "services/cli/eval_run.h"
#include "services/cli/eval_suite.h"
#include "services/cli/report_output.h"
#include "services/worker/loaded_model.h"

namespace clamor::cli {
namespace {

struct Flags {
  ModelOptions model;
  std::string suite, data;
  int64_t limit = 10;
  bool chat = false, no_chat = false;  // neither: as the suite and the model suggest
  std::vector<std::string> modes = {"plain", "published", "merged"};
  std::vector<std::string> nodes = {"auto"};
  Request options{.max_tokens = 128};
  std::string retrieval;
  bool fresh = false;
  std::string against = "stored";
  int32_t document_tokens = 512;
  ReportFlags report;
};

EvalReport Describe(const Flags& flags, const LoadedModel& model, const EvalTask& task, bool chat) {
  const SamplingOptions& sampling = flags.options.sampling;
  EvalReport report{.model = model.name, .suite = flags.suite, .data = flags.data, .fresh = flags.fresh};
  for (const EvalMode& mode : task.modes) report.modes.push_back(mode.name);
  report.plain = PlainMode(task.modes);
  report.planned = task.questions.size();
  report.options = {{"limit", flags.limit},
                    {"chat", chat},
                    {"max_tokens", flags.options.max_tokens},
                    {"ignore_eos", flags.options.ignore_eos},
                    {"temperature", sampling.temperature},
                    {"top_k", sampling.top_k},
                    {"top_p", sampling.top_p},
                    {"min_p", sampling.min_p},
                    {"seed", sampling.seed},
                    {"fresh", flags.fresh},
                    {"store", !flags.retrieval.empty()}};
  report.machine = {{"device", "cpu"},
                    {"cpu_target", kernels::CpuTargetName(kernels::ActiveCpuTarget())},
                    {"threads", model.threads},
                    {"weights", model.stored_as},
                    {"kv", std::string(kernels::KvFormatName(model.kv_format))},
                    {"requests", 1}};
  return report;
}

std::string Render(const EvalReport& report, const std::string& output) {
  if (output == "html") return RenderEvalPage(report);
  if (output == "table") return RenderEvalText(report);
  return EvalJson(report).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

absl::Status EvalPerplexity(const Flags& flags) {
  if (flags.report.output == "html") {
    return UsageError("--output: html is not for --suite perplexity, which prints a table or json");
  }
  CLAMOR_ASSIGN_OR_RETURN(const PerplexityReport report,
                          MeasurePerplexity({.model = flags.model,
                                             .against = flags.against,
                                             .data = flags.data,
                                             .chat = flags.chat,
                                             .limit = flags.limit,
                                             .document_tokens = flags.document_tokens}));
  return WriteReport(flags.report.output == "json" ? PerplexityJson(report) : RenderPerplexity(report),
                     flags.report);
}

absl::Status Eval(const Flags& flags) {
  if (SuiteNamed(flags.suite) == Suite::kPerplexity) return EvalPerplexity(flags);
  if (absl::Status valid = flags.options.sampling.Validate(); !valid.ok()) return UsageError(valid.message());
  EvalTask task{.options = flags.options, .retrieval = flags.retrieval, .fresh = flags.fresh};
  CLAMOR_ASSIGN_OR_RETURN(task.modes, ParseModes(flags.modes, flags.nodes));
  const Suite suite = SuiteNamed(flags.suite);
  CLAMOR_ASSIGN_OR_RETURN(const std::vector<SuitePrompt> prompts, ReadSuite(suite, flags.data));
  CLAMOR_ASSIGN_OR_RETURN(const LoadedModel model, LoadModelWithProgress(flags.model, /*quiet=*/false));
  task.model = &model;
  // HumanEval asks for the rest of a function, which is a text to continue.
  const bool chat =
      flags.chat || (!flags.no_chat && model.chat_template != nullptr && suite != Suite::kHumanEval);
  CLAMOR_ASSIGN_OR_RETURN(Questions questions, EncodeQuestions(model, prompts, flags.data, chat, flags.limit,
                                                               flags.options.max_tokens));
  task.questions = std::move(questions.asked);

  Interrupted();  // from here on Ctrl-C ends the evaluation, not the process
  EvalReport report = Describe(flags, model, task, chat);
  report.too_long = std::move(questions.too_long);
  CLAMOR_ASSIGN_OR_RETURN(report.answered, Evaluate(task, Interrupted()));
  report.figures = FiguresOf(report.answered, report.modes.size(), report.plain);
  report.differences = DifferencesOf(report.answered, report.plain);
  CLAMOR_RETURN_IF_ERROR(WriteReport(Render(report, flags.report.output), flags.report));
  return VerdictOf(report);
}

void AddSamplingFlags(CLI::App& verb, SamplingOptions& sampling) {
  verb.add_option("--temperature", sampling.temperature, "0: the most likely token each time")
      ->check(CLI::Range(0.0f, 100.0f))
      ->capture_default_str()
      ->group("Sampling");
  verb.add_option("--top-p", sampling.top_p, "Keep the likeliest tokens that together reach this probability")
      ->check(CLI::Range(0.0f, 1.0f))
      ->group("Sampling");
  verb.add_option("--top-k", sampling.top_k, "Keep this many of the likeliest tokens; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->group("Sampling");
  verb.add_option("--min-p", sampling.min_p, "Keep tokens with this share of the likeliest one's probability")
      ->check(CLI::Range(0.0f, 1.0f))
      ->group("Sampling");
  verb.add_option("--seed", sampling.seed, "Of the noise")->capture_default_str()->group("Sampling");
}

void AddPromptFlags(CLI::App& verb, Flags& flags) {
  verb.add_option("--suite", flags.suite, absl::StrCat("What --data is: ", absl::StrJoin(SuiteNames(), ", ")))
      ->required()
      ->check(CLI::IsMember(SuiteNames()))
      ->group("Prompts");
  verb.add_option("--data", flags.data,
                  "The suite's file as published; for prompts: JSONL with prompt or messages, or a prompt a "
                  "line; for "
                  "perplexity: JSONL with text, prompt or messages")
      ->required()
      ->group("Prompts");
  verb.add_option("--limit", flags.limit, "Prompts of each category; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str()
      ->group("Prompts");
  CLI::Option* chat =
      verb.add_flag(
              "--chat", flags.chat,
              "Text as a user's message; the default if the model has a template, but not for humaneval")
          ->group("Prompts");
  verb.add_flag("--no-chat", flags.no_chat, "Text as it is")->excludes(chat)->group("Prompts");
}

}  // namespace

void AddEval(CLI::App& app, Run& run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb =
      app.add_subcommand("eval", "Compare drafting with plain decoding on the prompts of a suite");
  AddModelFlags(*verb, flags->model)->required();
  AddPromptFlags(*verb, *flags);
  verb->add_option("--max-tokens", flags->options.max_tokens, "Tokens of an answer at most")
      ->check(CLI::Range(1, std::numeric_limits<int32_t>::max() / 2))
      ->capture_default_str()
      ->group("Answer");
  verb->add_flag("--ignore-eos", flags->options.ignore_eos, "Go on after the model's end-of-sequence token")
      ->group("Answer");
  AddSamplingFlags(*verb, flags->options.sampling);
  verb->add_option("--modes", flags->modes, "Of plain, published, merged and merged:NODES")
      ->delimiter(',')
      ->capture_default_str()
      ->group("Speculation");
  verb->add_option("--nodes", flags->nodes,
                   "Draft nodes per step of merged: auto and numbers, a mode for each")
      ->delimiter(',')
      ->capture_default_str()
      ->group("Speculation");
  CLI::Option* fresh =
      verb->add_flag("--fresh", flags->fresh, "Forget after each prompt what drafting learned")
          ->group("Speculation");
  verb->add_option("--retrieval", flags->retrieval, "HOST:PORT of a store to take drafts from")
      ->excludes(fresh)  // a prompt's own tenant has nothing in the store
      ->group("Speculation");
  verb->add_option("--against", flags->against, "Weights to compare --weights with")
      ->capture_default_str()
      ->group("Perplexity");
  verb->add_option("--document-tokens", flags->document_tokens, "Tokens of a document at most")
      ->check(CLI::Range(2, std::numeric_limits<int32_t>::max() / 2))
      ->capture_default_str()
      ->group("Perplexity");
  AddReportFlags(*verb, flags->report);
  verb->callback([flags, &run] { run = [flags] { return Eval(*flags); }; });
}

}  // namespace clamor::cli
