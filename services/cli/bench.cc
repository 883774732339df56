// `clamor bench`: load on a gateway, open or closed loop, and what becomes of it.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/status_macros.h"
#include "services/cli/bench_load.h"
#include "services/cli/bench_mix.h"
#include "services/cli/bench_report.h"
#include "services/cli/command.h"
#include "services/cli/connection.h"
#include "services/cli/progress_line.h"
#include "services/cli/report_output.h"
#include "services/rpc_error.h"

namespace clamor::cli {
namespace {

constexpr int32_t kStreamsOfConnection = 1000;  // servers allow 1024
constexpr size_t kMostPhases = 64;

struct Flags {
  std::string server, data;
  ConnectionFlags connection;
  int32_t connections = 0;
  std::vector<double> rates;
  std::vector<int32_t> concurrency;
  PhaseOptions phase;
  MixOptions mix;
  double deadline = 0;
  int32_t sessions = 0, turns = 4;
  ReportFlags report;
};

// The phases in their order: rates or numbers of clients, as one of the flags lists.
std::vector<PhaseOptions> PhasesOf(const Flags& flags) {
  std::vector<PhaseOptions> phases;
  for (const double rate : flags.rates) {
    phases.push_back(flags.phase);
    phases.back().rate = rate;
  }
  for (const int32_t concurrency : flags.concurrency) {
    phases.push_back(flags.phase);
    phases.back().concurrency = concurrency;
  }
  return phases;
}

// Connections enough for all streams that may be open at a time.
absl::StatusOr<std::vector<std::shared_ptr<grpc::Channel>>> ConnectAll(const Flags& flags) {
  int32_t most = flags.rates.empty() ? 0 : flags.phase.most_open;
  for (const int32_t concurrency : flags.concurrency) most = std::max(most, concurrency);
  const int32_t wanted =
      flags.connections > 0 ? flags.connections : (most + kStreamsOfConnection - 1) / kStreamsOfConnection;
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  for (int32_t i = 0; i < wanted; ++i) {
    grpc::ChannelArguments own;
    own.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    CLAMOR_ASSIGN_OR_RETURN(auto channel, Connect(flags.server, flags.connection, own));
    channels.push_back(std::move(channel));
  }
  // With the last channel goes the queue of gRPC's callbacks, and now and then aborts over it: one stays.
  if (!channels.empty()) new std::shared_ptr<grpc::Channel>(channels.front());
  return channels;
}

nlohmann::ordered_json OptionsJson(const Flags& flags) {
  const MixOptions& mix = flags.mix;
  nlohmann::ordered_json options = {{"model", mix.model},
                                    {"data", flags.data},
                                    {"duration", flags.phase.seconds},
                                    {"warmup", flags.phase.warmup_seconds},
                                    {"requests", flags.phase.requests},
                                    {"max_tokens", mix.max_tokens},
                                    {"ignore_eos", mix.ignore_eos},
                                    {"temperature", mix.temperature},
                                    {"chat", mix.chat},
                                    {"abort_rate", mix.abort_share},
                                    {"high", mix.high_share},
                                    {"low", mix.low_share},
                                    {"deadline", nullptr},
                                    {"sessions", flags.sessions},
                                    {"turns", flags.turns},
                                    {"seed", mix.seed}};
  if (flags.data.empty()) options["prompt_words"] = mix.prompt_words;
  if (mix.deadline) options["deadline"] = *mix.deadline;
  return options;
}

std::string Describe(const PhaseProgress& progress, const std::string& name) {
  const Counts& counts = progress.counts;
  std::string line =
      absl::StrFormat("%s: %.0f of %.0f s, %d open, %d ok (%d good)", name,
                      std::clamp(progress.seconds, 0.0, progress.of_seconds), progress.of_seconds,
                      progress.open, counts.of(Outcome::kOk), counts.good);
  for (const Outcome outcome : {Outcome::kRefused, Outcome::kFailed, Outcome::kAborted}) {
    if (counts.of(outcome) == 0) continue;
    absl::StrAppend(&line, ", ", counts.of(outcome), " ", kOutcomeNames[static_cast<size_t>(outcome)]);
  }
  return line;
}

std::string Render(const BenchReport& report, const std::string& output) {
  if (output == "html") return RenderBenchPage(report);
  if (output == "table") return RenderBenchText(report);
  return BenchJson(report).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

// The first answer is asked for before anything is measured: what is wrong with server or request is then an
// error, not a hundred thousand refusals.
absl::Status TryOne(const std::shared_ptr<grpc::Channel>& channel, RequestMix& mix) {
  absl::Status status;
  LoadGenerator probe(
      {channel},
      [&](LoadClock::time_point due) {
        StreamPlan plan = mix.Next(due);
        plan.abort_after = 1;
        plan.deadline.reset();
        plan.over = [&status, over = std::move(plan.over)](const absl::Status& ended) {
          if (over) over(ended);
          status = ended;
        };
        return plan;
      },
      /*seed=*/0);
  const PhaseFigures figures =
      probe.Run({.concurrency = 1, .seconds = 60, .requests = 1}, Interrupted(), [](const PhaseProgress&) {});
  if (figures.all.of(Outcome::kAborted) + figures.all.of(Outcome::kOk) > 0 || Interrupted()) {
    return absl::OkStatus();
  }
  return ServerStatus(ToGrpc(status));
}

absl::Status Bench(const Flags& given) {
  Flags flags = given;
  if (flags.rates.empty() == flags.concurrency.empty()) {
    return UsageError("--rate or --concurrency is required, one of them");
  }
  if (flags.rates.size() + flags.concurrency.size() > kMostPhases) {
    return UsageError(absl::StrCat(flags.rates.empty() ? "--concurrency" : "--rate", " is a list of ",
                                   flags.rates.size() + flags.concurrency.size(), ", limit is ",
                                   kMostPhases));
  }
  if (flags.mix.high_share + flags.mix.low_share > 1) {
    return UsageError(absl::StrCat("--high ", flags.mix.high_share, " and --low ", flags.mix.low_share,
                                   " are more than all requests"));
  }
  if (!flags.data.empty()) {
    CLAMOR_ASSIGN_OR_RETURN(flags.mix.prompts, ReadSuite(Suite::kPrompts, flags.data));
  }
  if (flags.deadline > 0) flags.mix.deadline = flags.deadline;
  CLAMOR_ASSIGN_OR_RETURN(const auto channels, ConnectAll(flags));
  Interrupted();  // from here on Ctrl-C ends the load, not the process
  std::unique_ptr<LoadSessions> sessions;
  if (flags.sessions > 0) {
    CLAMOR_ASSIGN_OR_RETURN(sessions, LoadSessions::Create(channels.front(), flags.sessions, flags.turns));
  }
  RequestMix mix(flags.mix, sessions.get());
  CLAMOR_RETURN_IF_ERROR(TryOne(channels.front(), mix));

  LoadGenerator generator(
      channels, [&mix](LoadClock::time_point due) { return mix.Next(due); }, flags.mix.seed);
  const std::vector<PhaseOptions> phases = PhasesOf(flags);
  BenchReport report{.server = flags.server,
                     .options = OptionsJson(flags),
                     .planned = phases.size(),
                     .objectives = flags.phase.objectives};
  {
    ProgressLine line;
    for (const PhaseOptions& phase : phases) {
      if (Interrupted() && !report.phases.empty()) break;
      const std::string name = PhaseName({.rate = phase.rate, .concurrency = phase.concurrency});
      report.phases.push_back(generator.Run(
          phase, Interrupted(), [&](const PhaseProgress& progress) { line.Show(Describe(progress, name)); }));
    }
  }
  if (sessions != nullptr) report.session_turns = sessions->turns_taken();
  CLAMOR_RETURN_IF_ERROR(WriteReport(Render(report, flags.report.output), flags.report));
  return report.complete() ? absl::OkStatus() : absl::CancelledError("interrupted: the report is of a part");
}

void AddLoadFlags(CLI::App& verb, Flags& flags) {
  CLI::Option* rate =
      verb.add_option(
              "--rate", flags.rates,
              "Requests a second, at random times (open loop); several, comma separated: one after the other")
          ->delimiter(',')
          ->check(CLI::Range(1e-3, 1e6))
          ->group("Load");
  verb.add_option("--concurrency", flags.concurrency, "Requests at any time (closed loop); likewise")
      ->delimiter(',')
      ->check(CLI::Range(1, 100'000))
      ->excludes(rate)
      ->group("Load");
  verb.add_option("--duration", flags.phase.seconds, "Seconds of each rate")
      ->check(CLI::Range(0.1, 1e6))
      ->capture_default_str()
      ->group("Load");
  verb.add_option("--warmup", flags.phase.warmup_seconds, "Seconds before it that do not count")
      ->check(CLI::Range(0.0, 1e6))
      ->group("Load");
  verb.add_option("--requests", flags.phase.requests, "At most so many of each rate; 0: no limit")
      ->check(CLI::NonNegativeNumber)
      ->group("Load");
  verb.add_option("--most-open", flags.phase.most_open, "Requests open at a time; further ones are skipped")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str()
      ->group("Load");
  verb.add_option("--patience", flags.phase.patience_seconds,
                  "Seconds for what is open at the end; then it is cut")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str()
      ->group("Load");
  verb.add_option("--connections", flags.connections, "0: one for each 1000 requests that may be open")
      ->check(CLI::Range(0, 1000))
      ->group("Load");
  verb.add_option("--seed", flags.mix.seed, "Of all that is by chance")->capture_default_str()->group("Load");
}

void AddRequestFlags(CLI::App& verb, Flags& flags) {
  MixOptions& mix = flags.mix;
  verb.add_option("--model-name", mix.model, "As the gateway names it; its only one if not given")
      ->group("Requests");
  verb.add_option("--data", flags.data,
                  "JSONL with prompt or messages, or a prompt a line; else made up of words")
      ->group("Requests");
  verb.add_option("--prompt-words", mix.prompt_words, "Of prompts that are made up")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str()
      ->group("Requests");
  verb.add_flag("--chat", mix.chat, "Text as a user's message")->group("Requests");
  verb.add_option("--max-tokens", mix.max_tokens, "Tokens of an answer at most")
      ->check(CLI::Range(1, std::numeric_limits<int32_t>::max()))
      ->capture_default_str()
      ->group("Requests");
  verb.add_flag("--ignore-eos", mix.ignore_eos, "Answers of just so many")->group("Requests");
  verb.add_option("--temperature", mix.temperature, "0: the most likely token each time")
      ->check(CLI::Range(0.0f, 100.0f))
      ->group("Requests");
  verb.add_option("--abort-rate", mix.abort_share, "Share whose client gives up in the middle, 0 to 1")
      ->check(CLI::Range(0.0, 1.0))
      ->group("Requests");
  verb.add_option("--high", mix.high_share, "Share of high priority, 0 to 1")
      ->check(CLI::Range(0.0, 1.0))
      ->group("Requests");
  verb.add_option("--low", mix.low_share, "Share of low priority, 0 to 1")
      ->check(CLI::Range(0.0, 1.0))
      ->group("Requests");
  verb.add_option("--deadline", flags.deadline, "Seconds that each request has; 0: no deadline")
      ->check(CLI::Range(0.0, 1e6))
      ->group("Requests");
  verb.add_option("--sessions", flags.sessions,
                  "Conversations at the gateway: each request is a turn of one that waits, if any does")
      ->check(CLI::Range(0, 10'000))
      ->group("Requests");
  verb.add_option("--turns", flags.turns, "Of a conversation, before a new one takes its place")
      ->check(CLI::Range(1, 500))
      ->capture_default_str()
      ->group("Requests");
}

void AddObjectiveFlags(CLI::App& verb, Objectives& objectives) {
  const auto add = [&](const char* flag, double& seconds, const char* what) {
    verb.add_option(flag, seconds, what)->check(CLI::Range(1e-6, 1e6))->group("Good answers (goodput)");
  };
  add("--first-token-within", objectives.first_token, "Seconds");
  add("--inter-token-within", objectives.inter_token, "Seconds a token after the first, on average");
  add("--answer-within", objectives.total, "Seconds");
}

}  // namespace

void AddBench(CLI::App& app, Run& run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand("bench", "Put load on a gateway and measure what becomes of it");
  verb->add_option("--server", flags->server, "HOST:PORT of a gateway")->required();
  AddConnectionFlags(*verb, flags->connection);
  AddLoadFlags(*verb, *flags);
  AddRequestFlags(*verb, *flags);
  AddObjectiveFlags(*verb, flags->phase.objectives);
  AddReportFlags(*verb, flags->report);
  verb->callback([flags, &run] { run = [flags] { return Bench(*flags); }; });
}

}  // namespace clamor::cli
