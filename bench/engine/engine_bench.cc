// The engine under load, without a network around it.
//
//     engine_bench concurrency --model DIR --suite spec_bench --data F [--levels 1,2,4,8,16] [--rounds 3]
//     engine_bench fairness    --model DIR --suite spec_bench --data F [--streams 8] [--prompt-tokens 4096]
//     engine_bench soak        --model DIR --suite spec_bench --data F [--minutes 30] [--kv-tokens 4096]
//     engine_bench steps       --model DIR [--rows 1,2,4,8,16,32,64] [--contexts 128] [--rounds 21]
//
// concurrency: tokens per second of plain decoding and of drafting with the automatic budget, in turns, with
// so many requests in flight; the ratio is the median over the rounds. fairness: the time between a stream's
// deliveries while a long prompt is read, against the time without one. soak: random arrivals, cancels and
// priorities in a cache so small that sequences lose their pages; fails if a page is lost, a request never
// ends, or memory grows after the first tenth. steps: what a forward pass of so many rows costs after a text
// of so many tokens, and the memory of their keys and values. Each prints a table and, with --output, JSON.
#include "bench/engine/engine_bench.h"

#include <fstream>
#include <iostream>
#include <utility>

#include "CLI/CLI.hpp"
#include "kernels/cpu_target.h"
#include "kernels/status_macros.h"
#include "services/cli/eval_run.h"
#include "services/cli/eval_suite.h"

namespace clamor {
namespace {

absl::StatusOr<Prompts> ReadPrompts(const BenchFlags& flags, const LoadedModel& model) {
  const cli::Suite suite = cli::SuiteNamed(flags.suite);
  CLAMOR_ASSIGN_OR_RETURN(const auto lines, cli::ReadSuite(suite, flags.data));
  const bool chat = model.chat_template != nullptr && suite != cli::Suite::kHumanEval;
  CLAMOR_ASSIGN_OR_RETURN(
      auto questions, cli::EncodeQuestions(model, lines, flags.data, chat, flags.limit, flags.max_tokens));
  Prompts prompts;
  for (auto& question : questions.asked) prompts.push_back(std::move(question.prompt_ids));
  return prompts;
}

absl::Status Run(const BenchFlags& flags, BenchFn bench) {
  CLAMOR_ASSIGN_OR_RETURN(const LoadedModel model, LoadModel(flags.model, [](uint64_t, uint64_t) {}));
  Prompts prompts;
  if (!flags.suite.empty()) {
    CLAMOR_ASSIGN_OR_RETURN(prompts, ReadPrompts(flags, model));
  }
  CLAMOR_ASSIGN_OR_RETURN(const nlohmann::ordered_json report, bench(flags, model, prompts));
  if (!flags.output.empty()) std::ofstream(flags.output) << report.dump(1) << "\n";
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  BenchFlags flags;
  BenchFn bench = nullptr;
  CLI::App app("The engine under load");
  app.require_subcommand(1);
  const auto bare_verb = [&](const char* name, const char* about, BenchFn fn) {
    CLI::App* verb = app.add_subcommand(name, about);
    verb->callback([&bench, fn] { bench = fn; });
    verb->add_option("--model", flags.model.directory)->required();
    verb->add_option("--weights", flags.model.weights);
    verb->add_option("--kv", flags.model.kv);
    verb->add_option("--threads", flags.model.threads);
    verb->add_option("--output", flags.output, "JSON");
    return verb;
  };
  const auto verb = [&](const char* name, const char* about, BenchFn fn) {
    CLI::App* verb = bare_verb(name, about, fn);
    verb->add_option("--suite", flags.suite)->required()->check(CLI::IsMember(cli::SuiteNames()));
    verb->add_option("--data", flags.data)->required();
    verb->add_option("--limit", flags.limit, "Prompts of each category");
    verb->add_option("--max-tokens", flags.max_tokens)->check(CLI::Range(1, 4096));
    return verb;
  };
  CLI::App* concurrency =
      verb("concurrency", "Drafting against plain decoding, by requests in flight", Concurrency);
  concurrency->add_option("--levels", flags.levels)->delimiter(',')->check(CLI::Range(1, 256));
  concurrency->add_option("--rounds", flags.rounds)->check(CLI::Range(1, 100));
  CLI::App* fairness = verb("fairness", "Streams while a long prompt is read", Fairness);
  fairness->add_option("--streams", flags.streams)->check(CLI::Range(1, 256));
  fairness->add_option("--prompt-tokens", flags.prompt_tokens)->check(CLI::Range(1, 1 << 20));
  CLI::App* soak = verb("soak", "Random load in a small cache", Soak);
  soak->add_option("--minutes", flags.minutes)->check(CLI::Range(0.01, 1e4));
  soak->add_option("--kv-tokens", flags.kv_tokens)->check(CLI::Range(256, 1 << 30));
  CLI::App* steps = bare_verb("steps", "What a forward pass costs by rows and context", Steps);
  steps->add_option("--rows", flags.rows)->delimiter(',')->check(CLI::Range(1, 512));
  steps->add_option("--contexts", flags.contexts)->delimiter(',')->check(CLI::Range(1, 1 << 20));
  steps->add_option("--rounds", flags.rounds, "21 are enough for a quiet machine")
      ->check(CLI::Range(1, 1000));
  CLI11_PARSE(app, argc, argv);
  absl::Status status = kernels::SetCpuTargetFromEnvironment();
  if (status.ok()) status = Run(flags, bench);
  if (status.ok()) return 0;
  std::cerr << "engine_bench: " << status.message() << "\n";
  return 1;
}

}  // namespace
}  // namespace clamor

int main(int argc, char** argv) { return clamor::Main(argc, argv); }
