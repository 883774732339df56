// Drafts from text alone (repetitions of prompt and answer, and a store of earlier answers) replayed over
// recorded answers: how many drafted tokens would have been accepted, and what they cost. No model runs.
//
//     trace_bench TRACES.jsonl [--nodes 8,16,64] [--late] [--prompt-lookup]
//
// TRACES.jsonl is what draft_bench --traces wrote: {"category", "prompt_ids", "token_ids"}, in order of
// arrival. Each answer is added to the store when it is complete. --prompt-lookup: by the rule of prompt
// lookup decoding instead (baseline_drafters.h), which needs no model either. bench/peers/arctic.py replays
// the same traces through ArcticInference's suffix decoding. Prints one JSON object for each number of nodes.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "bench/drafting/baseline_drafters.h"
#include "bench/drafting/store_source.h"
#include "model/spec/merged_drafter.h"
#include "nlohmann/json.hpp"

namespace clamor {
namespace {

using Clock = std::chrono::steady_clock;

struct Trace {
  std::string category;
  std::vector<int32_t> prompt_ids, token_ids;
};

absl::StatusOr<std::vector<Trace>> ReadTraces(const std::string& path) {
  std::vector<Trace> traces;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const nlohmann::json row = nlohmann::json::parse(line, nullptr, false);
    if (!row.is_object() || !row.contains("prompt_ids") || !row.contains("token_ids")) {
      return absl::InvalidArgumentError(absl::StrCat(path, ":", traces.size() + 1, ": is no trace"));
    }
    traces.push_back({row.value("category", ""), row["prompt_ids"].get<std::vector<int32_t>>(),
                      row["token_ids"].get<std::vector<int32_t>>()});
  }
  if (traces.empty()) return absl::NotFoundError(absl::StrCat(path, ": holds no trace"));
  return traces;
}

struct Count {
  int64_t steps = 0, drafted = 0, accepted = 0;
  nlohmann::ordered_json ToJson() const {
    return {{"tokens_per_step", 1.0 + static_cast<double>(accepted) / static_cast<double>(steps)},
            {"accepted", accepted},
            {"drafted", drafted},
            {"steps", steps}};
  }
};

class Replay {
 public:
  Replay(int32_t vocab_size, int32_t nodes, bool prompt_lookup, StoreSource& store)
      : vocab_size_(vocab_size),
        nodes_(nodes),
        prompt_lookup_(prompt_lookup),
        store_(store),
        unknown_(1024 * Drafter::kTopK, -1),
        zeros_(1024 * Drafter::kTopK) {}

  Count Run(const Trace& trace, uint64_t sequence) {
    const std::unique_ptr<Drafter> drafter = NewDrafter();
    std::vector<int32_t> text = trace.prompt_ids;
    const auto start = Clock::now();
    drafter->Extend(text);
    append_seconds_ += Since(start);
    Count count;
    DraftTree tree;
    for (size_t done = 0; done < trace.token_ids.size();) {
      const auto drafting = Clock::now();
      if (auto answer = store_.Take(sequence)) drafter->Offer(*std::move(answer));
      drafter->Draft(nodes_, tree);
      draft_seconds_ += Since(drafting);
      Accepted accepted;
      Verify(
          tree,
          [&](int32_t node) {
            const size_t at = done + tree.nodes[node].depth;
            return at < trace.token_ids.size() ? trace.token_ids[at] : -1;
          },
          accepted);
      const size_t kept = std::min(accepted.path.size() + 1, trace.token_ids.size() - done);
      count.accepted += static_cast<int64_t>(std::min(kept, accepted.path.size()));
      count.drafted += tree.drafted();
      ++count.steps;
      const auto learning = Clock::now();
      drafter->Observe(tree,
                       {.k = Drafter::kTopK,
                        .ids = unknown_.data(),
                        .values = zeros_.data(),
                        .log_sum_exp = zeros_.data()},
                       accepted);
      const auto next = std::span(trace.token_ids).subspan(done, kept);
      drafter->Extend(next);
      append_seconds_ += Since(learning);
      text.insert(text.end(), next.begin(), next.end());
      done += kept;
      if (drafter->WantsAnswer()) {
        store_.Ask(sequence, {}, std::span(text).last(std::min<size_t>(text.size(), 32)),
                   static_cast<int64_t>(text.size()));
      }
    }
    store_.Forget(sequence);
    appended_ += static_cast<int64_t>(text.size());
    return count;
  }

  double draft_seconds() const { return draft_seconds_; }
  double append_microseconds() const { return append_seconds_ * 1e6 / static_cast<double>(appended_); }

 private:
  std::unique_ptr<Drafter> NewDrafter() {
    constexpr auto kBit = [](Source source) { return 1u << static_cast<int>(source); };
    if (prompt_lookup_) return std::make_unique<PromptLookupDrafter>();
    return std::make_unique<MergedDrafter>(&knowledge_, vocab_size_, SamplingOptions{},
                                           kBit(Source::kContext) | kBit(Source::kStore));
  }
  static double Since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  int32_t vocab_size_, nodes_;
  bool prompt_lookup_;
  StoreSource& store_;
  DraftKnowledge knowledge_;
  // What a model would have said of the nodes: nothing.
  std::vector<int32_t> unknown_;
  std::vector<float> zeros_;
  double draft_seconds_ = 0, append_seconds_ = 0;
  int64_t appended_ = 0;
};

absl::Status Run(const std::string& path, const std::vector<int32_t>& budgets, bool late,
                 bool prompt_lookup) {
  CLAMOR_ASSIGN_OR_RETURN(const std::vector<Trace> traces, ReadTraces(path));
  int32_t vocab_size = 0;
  for (const Trace& trace : traces) {
    for (const auto& ids : {trace.prompt_ids, trace.token_ids}) {
      for (const int32_t id : ids) vocab_size = std::max(vocab_size, id + 1);
    }
  }
  for (const int32_t nodes : budgets) {
    CLAMOR_ASSIGN_OR_RETURN(const auto store, StoreSource::Create({.min_match = 1, .late = late}));
    Replay replay(vocab_size, nodes, prompt_lookup, *store);
    std::map<std::string, Count> counts;
    double store_seconds = 0;
    for (size_t i = 0; i < traces.size(); ++i) {
      const Count count = replay.Run(traces[i], i + 1);
      for (const std::string& category : {traces[i].category, std::string("all")}) {
        counts[category].steps += count.steps;
        counts[category].drafted += count.drafted;
        counts[category].accepted += count.accepted;
      }
      const auto start = Clock::now();
      CLAMOR_RETURN_IF_ERROR(store->Add(std::to_string(i), traces[i].token_ids));
      store_seconds += std::chrono::duration<double>(Clock::now() - start).count();
    }
    nlohmann::ordered_json result = {{"nodes", nodes}};
    for (const auto& [category, count] : counts) result[category] = count.ToJson();
    const Count& all = counts["all"];
    result["draft_microseconds"] = replay.draft_seconds() * 1e6 / static_cast<double>(all.steps);
    result["store_lookup_microseconds"] =
        store->lookup_seconds() * 1e6 / static_cast<double>(std::max<int64_t>(1, store->lookups()));
    result["append_microseconds_per_token"] = replay.append_microseconds();
    result["store_append_microseconds_per_answer"] = store_seconds * 1e6 / static_cast<double>(traces.size());
    std::printf("%s\n", result.dump().c_str());
  }
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  std::string path;
  std::vector<int32_t> nodes = {8, 16, 64};
  bool late = false, prompt_lookup = false;
  CLI::App app("Replays drafts over recorded answers");
  app.add_option("traces", path, "JSONL of draft_bench --traces")->required();
  app.add_option("--nodes", nodes)->delimiter(',')->check(CLI::Range(1, 128));
  app.add_flag("--late", late, "The store answers a step later, as a service does");
  app.add_flag("--prompt-lookup", prompt_lookup, "Draft by the rule of prompt lookup decoding");
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = Run(path, nodes, late, prompt_lookup);
  if (status.ok()) return 0;
  std::cerr << "trace_bench: " << status.message() << "\n";
  return 1;
}

}  // namespace
}  // namespace clamor

int main(int argc, char** argv) { return clamor::Main(argc, argv); }
