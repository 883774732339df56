#include <algorithm>
#include <cstdio>
#include <list>
#include <memory>

#include "absl/time/clock.h"
#include "bench/engine/engine_bench.h"
#include "bench/engine/stream.h"
#include "kernels/status_macros.h"

namespace clamor {
namespace {

struct Answered {
  int64_t tokens = 0;
  double seconds = 0;
  double rate() const { return static_cast<double>(tokens) / seconds; }
};

// All prompts, `level` of them in flight as long as there are more.
absl::StatusOr<Answered> AnswerAll(Engine& engine, const Prompts& prompts, int32_t level,
                                   int32_t max_tokens) {
  Answered answered;
  std::list<Stream> streams;
  size_t next = 0;
  const absl::Time begin = absl::Now();
  while (next < prompts.size() || !streams.empty()) {
    for (; next < prompts.size() && static_cast<int32_t>(streams.size()) < level; ++next) {
      const Request request{.prompt_ids = prompts[next], .max_tokens = max_tokens};
      if (auto handle = engine.Submit(request, &streams.emplace_back()); !handle.ok()) return handle.status();
    }
    engine.Step();
    streams.remove_if([&](const Stream& stream) {
      if (stream.finished()) answered.tokens += stream.tokens();
      return stream.finished();
    });
  }
  answered.seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  return answered;
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

}  // namespace

absl::StatusOr<nlohmann::ordered_json> Concurrency(const BenchFlags& flags, const LoadedModel& model,
                                                   const Prompts& prompts) {
  size_t longest = 0;
  for (const auto& prompt : prompts) longest = std::max(longest, prompt.size());
  const int32_t most = *std::max_element(flags.levels.begin(), flags.levels.end());
  const auto make = [&](int32_t nodes) {
    const int64_t tokens =
        static_cast<int64_t>(longest) + flags.max_tokens + 2 * SpeculationOptions::kMaxNodes;
    const EngineOptions options{
        .threads = model.threads, .kv_tokens = most * tokens, .max_sequences = most, .default_nodes = nodes};
    return Engine::Create(model.transformer.get(), model.tokenizer.get(), nullptr, nullptr, options);
  };
  CLAMOR_ASSIGN_OR_RETURN(const auto plain, make(0));
  CLAMOR_ASSIGN_OR_RETURN(const auto automatic, make(SpeculationOptions::kAuto));
  nlohmann::ordered_json report = nlohmann::ordered_json::array();
  std::printf("in flight  plain tokens/s  drafting tokens/s  ratio\n");
  for (const int32_t level : flags.levels) {
    std::vector<double> ratios, rates[2];
    for (int round = 0; round < flags.rounds; ++round) {
      double rate[2];
      for (int turn = 0; turn < 2; ++turn) {
        const int which = (round + turn) % 2;
        Engine& engine = which == 0 ? *plain : *automatic;
        CLAMOR_ASSIGN_OR_RETURN(const Answered answered, AnswerAll(engine, prompts, level, flags.max_tokens));
        rate[which] = answered.rate();
        rates[which].push_back(rate[which]);
      }
      ratios.push_back(rate[1] / rate[0]);
    }
    report.push_back({{"in_flight", level},
                      {"plain_tokens_per_second", Median(rates[0])},
                      {"drafting_tokens_per_second", Median(rates[1])},
                      {"ratio", Median(ratios)}});
    std::printf("%9d  %14.1f  %17.1f  %5.2f\n", level, Median(rates[0]), Median(rates[1]), Median(ratios));
    std::fflush(stdout);
  }
  return report;
}

}  // namespace clamor
