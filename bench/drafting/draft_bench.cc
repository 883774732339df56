// Tokens per forward of drafters on a real model, by category: ours, ours without each source, ours with each
// source alone, and the rules of others, all with the same number of nodes.
//
//     draft_bench --model DIR --suite spec_bench --data question.jsonl [--suite humaneval --data
//     HumanEval.jsonl]
//                 [--limit 10,20] [--max-tokens 128] [--nodes 8,16,64] [--drafters merged,recycling,lookup]
//                 [--output FILE.json] [--traces FILE.jsonl]
// Answers are greedy, each drafter starts cold, every drafter's ids are checked to be those of the first.
// drafting_us is the median time of a step for choosing a tree and learning from what became of it.
// "warmed" is merged with a store that holds the answers to all other prompts. --traces writes the answers
// down for trace_bench.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "bench/drafting/baseline_drafters.h"
#include "bench/drafting/store_source.h"
#include "kernels/cpu_target.h"
#include "kernels/status_macros.h"
#include "kernels/tree_attention.h"
#include "model/spec/merged_drafter.h"
#include "nlohmann/json.hpp"
#include "services/cli/eval_run.h"
#include "services/cli/eval_suite.h"
#include "services/worker/engine.h"
#include "services/worker/loaded_model.h"

namespace clamor {
namespace {

constexpr char kWarmed[] = "warmed";

constexpr MergedDrafter::Sources Bit(Source source) { return 1u << static_cast<int>(source); }

// What drafters of one name share: what is learned from one answer helps the next.
struct Shared {
  explicit Shared(int32_t vocab_size) : vocab_size(vocab_size), table(vocab_size) {}
  int32_t vocab_size;
  DraftKnowledge knowledge;
  RecyclingTable table;
  std::unique_ptr<StoreSource> store;  // null: none
};
using Maker = std::function<std::unique_ptr<Drafter>(Shared&)>;

// "merged", "only-context", "without-context", ..., "lookup", "recycling".
std::map<std::string, Maker> Makers() {
  const auto merged = [](MergedDrafter::Sources sources) {
    return [sources](Shared& shared) {
      return std::make_unique<MergedDrafter>(&shared.knowledge, shared.vocab_size, SamplingOptions{.seed = 1},
                                             sources);
    };
  };
  std::map<std::string, Maker> makers = {
      {"merged", merged(MergedDrafter::kAllSources)},
      {kWarmed, merged(MergedDrafter::kAllSources)},
      {"lookup", [](Shared&) { return std::make_unique<PromptLookupDrafter>(); }},
      {"recycling", [](Shared& shared) { return std::make_unique<TokenRecyclingDrafter>(&shared.table); }}};
  for (const Source source : {Source::kJacobi, Source::kContext, Source::kAdjacency, Source::kRecycled}) {
    makers[absl::StrCat("only-", std::string(SourceName(source)))] = merged(Bit(source));
    makers[absl::StrCat("without-", std::string(SourceName(source)))] =
        merged(MergedDrafter::kAllSources & ~Bit(source));
  }
  return makers;
}

class CountingSink final : public TokenSink {
 public:
  void OnDelta(const Delta& delta) override {
    ids.insert(ids.end(), delta.token_ids.begin(), delta.token_ids.end());
  }
  void OnFinished(const Finished& last) override { stats = last.stats, finished = true; }

  std::vector<int32_t> ids;
  GenerationStats stats;
  bool finished = false;
};

struct Count {
  int64_t tokens = 0, forwards = 0;
  double tokens_per_forward() const { return static_cast<double>(tokens) / static_cast<double>(forwards); }
};
using Counts = std::map<std::string, Count>;  // by category

// What drafting takes of each step that decodes.
class DraftingTimes final : public StepObserver {
 public:
  void OnStep(const StepReport& report) override {
    if (report.forwards == 0) return;
    micros_.push_back(1e6 * (report.seconds[StepReport::kDraft] + report.seconds[StepReport::kCommit]));
  }
  void OnAccepted(int32_t) override {}
  // Of the steps since the last call.
  double TakeMedian() {
    const auto middle = micros_.begin() + static_cast<std::ptrdiff_t>(micros_.size() / 2);
    std::nth_element(micros_.begin(), middle, micros_.end());
    const double median = micros_.empty() ? 0 : *middle;
    micros_.clear();
    return median;
  }

 private:
  std::vector<double> micros_;
};

struct Flags {
  ModelOptions model;
  std::vector<std::string> suites, data, drafters;
  std::vector<int32_t> nodes = {8, 16, 64};
  std::vector<int64_t> limits;
  int32_t max_tokens = 128;
  std::string output, traces;
};

absl::StatusOr<std::vector<cli::EvalQuestion>> ReadQuestions(const Flags& flags, const LoadedModel& model) {
  std::vector<cli::EvalQuestion> all;
  for (size_t i = 0; i < flags.suites.size(); ++i) {
    const cli::Suite suite = cli::SuiteNamed(flags.suites[i]);
    CLAMOR_ASSIGN_OR_RETURN(const auto prompts, cli::ReadSuite(suite, flags.data[i]));
    const bool chat = model.chat_template != nullptr && suite != cli::Suite::kHumanEval;
    CLAMOR_ASSIGN_OR_RETURN(auto questions, cli::EncodeQuestions(model, prompts, flags.data[i], chat,
                                                                 flags.limits[i], flags.max_tokens));
    std::move(questions.asked.begin(), questions.asked.end(), std::back_inserter(all));
  }
  return all;
}

// One engine answers everything: its cache holds all prompts, so that each is read once, not once a drafter.
class Answerer {
 public:
  using Make = std::function<std::unique_ptr<Drafter>()>;

  static absl::StatusOr<Answerer> Create(const LoadedModel& model,
                                         std::span<const cli::EvalQuestion> questions, int32_t max_tokens) {
    int64_t room = 2 * SpeculationOptions::kMaxNodes;
    for (const auto& question : questions) {
      room += static_cast<int64_t>(question.prompt_ids.size()) + max_tokens + kernels::kPageSize;
    }
    auto make = std::make_unique<Make>();
    EngineOptions options{
        .threads = model.threads, .kv_tokens = room, .max_sequences = 1, .default_nodes = 0};
    options.drafter_factory = [make = make.get()](const Request&) { return (*make)(); };
    auto store = std::make_unique<MaybeStore>();
    auto times = std::make_unique<DraftingTimes>();
    CLAMOR_ASSIGN_OR_RETURN(auto engine, Engine::Create(model.transformer.get(), model.tokenizer.get(),
                                                        store.get(), times.get(), options));
    return Answerer(std::move(engine), std::move(make), std::move(store), std::move(times), max_tokens);
  }

  // `store` may be null.
  absl::StatusOr<CountingSink> Answer(const cli::EvalQuestion& question, int32_t nodes, StoreSource* store,
                                      Make make) {
    *make_ = std::move(make);
    store_->store = store;
    CountingSink sink;
    const Request request{
        .prompt_ids = question.prompt_ids, .max_tokens = max_tokens_, .speculation = {.nodes = nodes}};
    if (auto handle = engine_->Submit(request, &sink); !handle.ok()) return handle.status();
    while (engine_->Step()) {
    }
    return sink;
  }

  DraftingTimes& times() { return *times_; }

 private:
  // A store for some of the answers.
  struct MaybeStore final : ContinuationSource {
    void Ask(uint64_t sequence, std::span<const std::string_view> tenants, std::span<const int32_t> context,
             int64_t position) override {
      if (store != nullptr) store->Ask(sequence, tenants, context, position);
    }
    std::optional<Answer> Take(uint64_t sequence) override {
      return store != nullptr ? store->Take(sequence) : std::nullopt;
    }
    void Forget(uint64_t sequence) override {
      if (store != nullptr) store->Forget(sequence);
    }
    StoreSource* store = nullptr;
  };

  Answerer(std::unique_ptr<Engine> engine, std::unique_ptr<Make> make, std::unique_ptr<MaybeStore> store,
           std::unique_ptr<DraftingTimes> times, int32_t max_tokens)
      : make_(std::move(make)),
        store_(std::move(store)),
        times_(std::move(times)),
        engine_(std::move(engine)),
        max_tokens_(max_tokens) {}

  // Where the engine finds them.
  std::unique_ptr<Make> make_;
  std::unique_ptr<MaybeStore> store_;
  std::unique_ptr<DraftingTimes> times_;
  std::unique_ptr<Engine> engine_;
  int32_t max_tokens_;
};

// All answers; the one that is being given is taken out meanwhile.
absl::StatusOr<std::unique_ptr<StoreSource>> StoreWith(const std::vector<std::vector<int32_t>>& answers) {
  if (answers[0].empty()) return absl::InvalidArgumentError("--drafters: another must come before warmed");
  CLAMOR_ASSIGN_OR_RETURN(auto store, StoreSource::Create({.min_match = 1, .late = false}));
  for (size_t i = 0; i < answers.size(); ++i)
    CLAMOR_RETURN_IF_ERROR(store->Add(std::to_string(i), answers[i]));
  return store;
}

void WriteTraces(const std::string& path, const std::vector<cli::EvalQuestion>& questions,
                 const std::vector<std::vector<int32_t>>& answers) {
  std::ofstream file(path);
  for (size_t i = 0; i < questions.size(); ++i) {
    const nlohmann::ordered_json row = {{"category", questions[i].category},
                                        {"prompt_ids", questions[i].prompt_ids},
                                        {"token_ids", answers[i]}};
    file << row.dump() << "\n";
  }
}

void PrintRow(const nlohmann::ordered_json& row, bool first) {
  if (first) {
    std::printf("%-20s %5s", "drafter", "nodes");
    for (const auto& [key, value] : row.items()) {
      if (value.is_number_float()) std::printf(" %14.14s", key.c_str());
    }
    std::printf("\n");
  }
  std::printf("%-20s %5d", row["drafter"].get<std::string>().c_str(), row["nodes"].get<int>());
  for (const auto& [key, value] : row.items()) {
    if (value.is_number_float()) std::printf(" %14.2f", value.get<double>());
  }
  std::printf("\n");
  std::fflush(stdout);
}

absl::Status Run(const Flags& flags) {
  const auto makers = Makers();
  for (const std::string& name : flags.drafters) {
    if (!makers.contains(name))
      return absl::InvalidArgumentError(absl::StrCat("--drafters: ", name, " is unknown"));
  }
  CLAMOR_ASSIGN_OR_RETURN(const LoadedModel model, LoadModel(flags.model, [](uint64_t, uint64_t) {}));
  CLAMOR_ASSIGN_OR_RETURN(const auto questions, ReadQuestions(flags, model));

  CLAMOR_ASSIGN_OR_RETURN(Answerer answerer, Answerer::Create(model, questions, flags.max_tokens));
  std::vector<std::vector<int32_t>> answers(questions.size());
  nlohmann::ordered_json report = nlohmann::ordered_json::array();
  for (const int32_t nodes : flags.nodes) {
    for (const std::string& name : flags.drafters) {
      Shared shared(model.transformer->config().vocab_size);
      if (name == kWarmed) {
        CLAMOR_ASSIGN_OR_RETURN(shared.store, StoreWith(answers));
      }
      Counts counts;
      for (size_t i = 0; i < questions.size(); ++i) {
        if (shared.store != nullptr) CLAMOR_RETURN_IF_ERROR(shared.store->Remove(std::to_string(i)));
        CLAMOR_ASSIGN_OR_RETURN(const CountingSink sink,
                                answerer.Answer(questions[i], nodes, shared.store.get(),
                                                [&] { return makers.at(name)(shared); }));
        if (shared.store != nullptr) CLAMOR_RETURN_IF_ERROR(shared.store->Add(std::to_string(i), answers[i]));
        if (answers[i].empty()) answers[i] = sink.ids;
        if (sink.ids != answers[i]) {
          return absl::InternalError(
              absl::StrCat(name, " with ", nodes, " nodes changed the answer to ", questions[i].id));
        }
        for (const std::string& category : {questions[i].category, std::string("all")}) {
          counts[category].tokens += static_cast<int64_t>(sink.ids.size());
          counts[category].forwards += sink.stats.forwards;
        }
        std::fprintf(stderr, "\r%-20s %3d nodes  %zu of %zu  %.2f ", name.c_str(), nodes, i + 1,
                     questions.size(), counts["all"].tokens_per_forward());
      }
      std::fprintf(stderr, "\n");
      nlohmann::ordered_json row = {{"drafter", name}, {"nodes", nodes}};
      for (const auto& [category, count] : counts) row[category] = count.tokens_per_forward();
      row["drafting_us"] = answerer.times().TakeMedian();
      row["tokens"] = counts["all"].tokens;
      PrintRow(row, report.empty());
      report.push_back(row);
      if (!flags.output.empty()) std::ofstream(flags.output) << report.dump(1) << "\n";
      if (!flags.traces.empty()) WriteTraces(flags.traces, questions, answers);
    }
  }
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  Flags flags;
  flags.drafters = {"merged", "recycling", "lookup"};
  CLI::App app("Tokens per forward of drafters, by category");
  app.add_option("--model", flags.model.directory)->required();
  app.add_option("--weights", flags.model.weights);
  app.add_option("--threads", flags.model.threads);
  app.add_option("--suite", flags.suites)->required()->check(CLI::IsMember(cli::SuiteNames()));
  app.add_option("--data", flags.data, "As many as --suite")->required();
  app.add_option("--limit", flags.limits, "Prompts of each category: one number for each --suite; default 10")
      ->delimiter(',');
  app.add_option("--max-tokens", flags.max_tokens);
  app.add_option("--nodes", flags.nodes)->delimiter(',')->check(CLI::Range(1, SpeculationOptions::kMaxNodes));
  app.add_option("--drafters", flags.drafters)->delimiter(',');
  app.add_option("--output", flags.output, "JSON");
  app.add_option("--traces", flags.traces, "JSONL of prompts and answers");
  CLI11_PARSE(app, argc, argv);
  if (flags.limits.empty()) flags.limits.assign(flags.suites.size(), 10);
  absl::Status status = flags.suites.size() == flags.data.size() && flags.suites.size() == flags.limits.size()
                            ? kernels::SetCpuTargetFromEnvironment()
                            : absl::InvalidArgumentError("as many --data and --limit as --suite are needed");
  if (status.ok()) status = Run(flags);
  if (status.ok()) return 0;
  std::cerr << "draft_bench: " << status.message() << "\n";
  return 1;
}

}  // namespace
}  // namespace clamor

int main(int argc, char** argv) { return clamor::Main(argc, argv); }
