#include <algorithm>
#include <cstdio>
#include <memory>

#include "bench/engine/engine_bench.h"
#include "bench/engine/stream.h"
#include "kernels/status_macros.h"

namespace clamor {
namespace {

double Quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  const size_t i = std::min(values.size() - 1, static_cast<size_t>(q * static_cast<double>(values.size())));
  std::nth_element(values.begin(), values.begin() + i, values.end());
  return values[i];
}

}  // namespace

absl::StatusOr<nlohmann::ordered_json> Fairness(const BenchFlags& flags, const LoadedModel& model,
                                                const Prompts& prompts) {
  const int32_t context = model.transformer->max_positions();
  if (flags.prompt_tokens + 1 > context) {
    return absl::InvalidArgumentError("--prompt-tokens and one more exceed the model's context");
  }
  constexpr int32_t kAnswer = 4096;  // streams never end by themselves
  const int64_t each = std::min<int64_t>(context, 1024 + kAnswer) + 2 * SpeculationOptions::kMaxNodes;
  const EngineOptions options{.threads = model.threads,
                              .kv_tokens = flags.streams * each + flags.prompt_tokens + 512,
                              .max_sequences = flags.streams + 1};
  CLAMOR_ASSIGN_OR_RETURN(const auto engine, Engine::Create(model.transformer.get(), model.tokenizer.get(),
                                                            nullptr, nullptr, options));
  std::vector<std::unique_ptr<Stream>> streams;
  std::vector<uint64_t> handles;
  for (int32_t i = 0; i < flags.streams; ++i) {
    const auto& prompt = prompts[i % prompts.size()];
    const int32_t room = context - static_cast<int32_t>(prompt.size()) - 1;
    Request request{.prompt_ids = prompt, .max_tokens = std::min(kAnswer, room), .ignore_eos = true};
    streams.push_back(std::make_unique<Stream>());
    CLAMOR_ASSIGN_OR_RETURN(handles.emplace_back(), engine->Submit(std::move(request), streams.back().get()));
  }
  const auto gaps = [&streams] {
    std::vector<double> all;
    for (const auto& stream : streams) all.insert(all.end(), stream->gaps().begin(), stream->gaps().end());
    return all;
  };
  const auto decoding = [&streams] {
    return std::all_of(streams.begin(), streams.end(), [](const auto& s) { return s->tokens() > 0; });
  };
  while (!decoding()) engine->Step();
  const size_t warm = gaps().size();
  for (int step = 0; step < 100; ++step) engine->Step();
  std::vector<double> alone = gaps();
  alone.erase(alone.begin(), alone.begin() + std::min(warm, alone.size()));

  std::vector<size_t> before;
  for (const auto& stream : streams) before.push_back(stream->gaps().size());
  Stream newcomer;
  std::vector<int32_t> text;
  for (size_t i = 0; static_cast<int32_t>(text.size()) < flags.prompt_tokens; ++i) {
    const auto& prompt = prompts[i % prompts.size()];
    text.insert(text.end(), prompt.begin(), prompt.end());
  }
  text.resize(flags.prompt_tokens);
  const absl::Time arrival = absl::Now();
  if (auto handle = engine->Submit({.prompt_ids = text, .max_tokens = 1}, &newcomer); !handle.ok())
    return handle.status();
  while (!newcomer.finished()) engine->Step();
  const double first_token = absl::ToDoubleSeconds(absl::Now() - arrival);
  std::vector<double> beside;
  for (size_t i = 0; i < streams.size(); ++i) {
    beside.insert(beside.end(), streams[i]->gaps().begin() + before[i], streams[i]->gaps().end());
  }
  for (const uint64_t handle : handles) engine->Cancel(handle);
  while (engine->Step()) {
  }

  const double median = Quantile(beside, 0.5), p99 = Quantile(beside, 0.99);
  std::printf("%d streams, a prompt of %d tokens: its first token after %.2f s\n", flags.streams,
              flags.prompt_tokens, first_token);
  std::printf("between deliveries   median %.1f ms alone, %.1f ms beside it; p99 %.1f ms, %.2f medians\n",
              1e3 * Quantile(alone, 0.5), 1e3 * median, 1e3 * p99, p99 / median);
  return nlohmann::ordered_json{
      {"streams", flags.streams},           {"prompt_tokens", flags.prompt_tokens},
      {"first_token_seconds", first_token}, {"median_alone_seconds", Quantile(alone, 0.5)},
      {"median_seconds", median},           {"p99_seconds", p99}};
}

}  // namespace clamor
