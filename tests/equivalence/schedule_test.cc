// Answers do not depend on who else is there: random arrivals, cancellations, batch sizes, modes and
// priorities in one engine, several answers to one prompt, answers in a grammar, prompts that begin alike,
// and a cache so small that sequences lose their pages.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "model/grammar/json_schema.h"
#include "nlohmann/json.hpp"
#include "tests/services/worker/engine_fakes.h"

namespace clamor {
namespace {

class Schedules : public testing::TestWithParam<const char*> {
 protected:
  int Below(int n) { return static_cast<int>(random_() % static_cast<uint32_t>(n)); }

  // One of 5 x 5 x 3 requests, so that the answers alone are computed once.
  Request RandomRequest() {
    static const SamplingOptions kSamplings[] = {
        {},
        {.temperature = 0.8f, .top_k = 20, .seed = 1},
        {.temperature = 1.2f, .top_p = 0.8f, .seed = 2},
        {.temperature = 0.8f,
         .min_p = 0.05f,
         .seed = 3,
         .repetition_penalty = 1.1f,
         .presence_penalty = 0.4f,
         .frequency_penalty = 0.2f,
         .logit_bias = {{5, 2}},
         .banned_token_ids = {6, 7}},
        {.temperature = 0.7f, .seed = 4},  // in the grammar
    };
    const int prompt = Below(5), sampling = Below(5);
    Request request{.tenant = Below(2) ? "a" : "b",
                    .prompt_ids = goldens_[prompt].prompt_ids,
                    .max_tokens = 64,
                    .sampling = kSamplings[sampling],
                    .ignore_eos = true,
                    .priority = static_cast<Priority>(Below(3))};
    // Some go on from what another may have answered: the cache may hold more than the prompt.
    const auto& answer = goldens_[prompt].greedy_ids;
    const int follow = Below(2) ? 0 : 13 * Below(3);
    request.prompt_ids.insert(request.prompt_ids.end(), answer.begin(), answer.begin() + follow);
    if (sampling == 4) {
      request.grammar = grammar_;
      request.ignore_eos = false;
    }
    request.id = std::to_string(prompt) + " " + std::to_string(sampling) + " " + std::to_string(follow);
    return request;
  }

  SpeculationOptions RandomSpeculation() {
    switch (Below(4)) {
      case 0:
        return {.nodes = 0};
      case 1:
        return {.shape = TreeShape::kPublished};
      case 2:
        return {.nodes = SpeculationOptions::kAuto};
      default:
        return {.nodes = 1 + Below(SpeculationOptions::kMaxNodes)};
    }
  }

  // As many answers to one prompt as it may be: with seeds that follow each other.
  std::vector<Request> RandomRequests() {
    std::vector<Request> requests(Below(4) ? 1 : 2 + Below(3), RandomRequest());
    for (size_t i = 1; i < requests.size(); ++i) {
      requests[i].sampling.seed += i;
      requests[i].id += " " + std::to_string(i);
    }
    for (Request& request : requests) request.speculation = RandomSpeculation();
    return requests;
  }

  struct Answer {
    std::vector<int32_t> ids;
    FinishReason reason;
  };
  const Answer& Alone(Request request, kernels::KvFormat format) {
    auto& answer = alone_[{request.id, format}];
    if (answer.ids.empty()) {
      request.speculation.nodes = 0;
      const auto engine = MakeEngine(model_, {.kv_format = format, .default_nodes = 0}, &tokenizer_);
      RecordingSink sink;
      Submit(*engine, std::move(request), sink);
      while (engine->Step()) {
      }
      answer = {sink.ids, sink.finished->reason};
    }
    return answer;
  }

  const Transformer& model_ = TinyModel(GetParam());
  const Tokenizer& tokenizer_ = TokenizerAt(TinyDirectory(GetParam()));
  const std::vector<GoldenCase> goldens_ = Goldens(GetParam());
  const std::shared_ptr<const Grammar> grammar_ = std::make_shared<const Grammar>(
      CompileJsonSchema(
          R"({"type": "object", "required": ["a", "b"], "properties": {"a": {"enum": ["x", 1, null]},
          "b": {"type": "array", "minItems": 4, "maxItems": 9, "items": {"type": ["boolean", "integer"]}}}})")
          .value());
  std::mt19937 random_{1};
  std::map<std::pair<std::string, kernels::KvFormat>, Answer> alone_;
};

class Counts : public StepObserver {
 public:
  void OnStep(const StepReport& report) override { preemptions += report.preemptions; }
  void OnAccepted(int32_t) override {}
  int64_t preemptions = 0, cached_tokens = 0, lost_pages = 0, documents = 0;
};

// CLAMOR_SCHEDULES=N runs N rounds of each family.
int Rounds() {
  const char* rounds = std::getenv("CLAMOR_SCHEDULES");
  return rounds != nullptr ? std::atoi(rounds) : kSanitized ? 2 : 8;
}

TEST_P(Schedules, AnswersAreThoseGivenAlone) {
  struct Running {
    Request request;
    uint64_t handle;
    RecordingSink sink;
  };
  constexpr kernels::KvFormat kFormats[] = {kernels::KvFormat::kF32, kernels::KvFormat::kBF16,
                                            kernels::KvFormat::kInt8};
  Counts counts;
  for (int round = 0; round < Rounds(); ++round) {
    ScriptedSource store(
        [&](std::span<const int32_t>, int64_t position) -> std::optional<ContinuationSource::Answer> {
          if (Below(3) == 0) return std::nullopt;
          return HostileAnswer(position, model_.config().vocab_size, random_);
        },
        /*delay=*/Below(3));
    EngineOptions options{.kv_tokens = Below(3) ? 370 + Below(100) : 600 + Below(2000),
                          .max_sequences = 1 + Below(8),
                          .prefill_chunk = 1 + Below(200),
                          .kv_format = kFormats[round % 3],
                          .default_nodes = Below(2) ? SpeculationOptions::kAuto : Below(30)};
    if (round % 2 == 0) {  // measures no costs, so that how many lose their pages hangs on no clock
      options.kv_tokens = 370;
      options.max_sequences = 8;
      options.default_nodes = 8;
    }
    const auto engine = MakeEngine(model_, options, &tokenizer_, &store, &counts);
    std::vector<std::unique_ptr<Running>> requests;
    size_t finished = 0;
    for (int step = 0; requests.size() < 24 || finished < requests.size(); ++step) {
      ASSERT_LT(step, 20000) << "some request never ends";
      if (requests.size() < 24 && Below(4) == 0) {
        for (Request& request : RandomRequests()) {
          auto& r = *requests.emplace_back(std::make_unique<Running>());
          r.request = std::move(request);
          r.handle = Submit(*engine, r.request, r.sink);
        }
      }
      if (!requests.empty() && Below(60) == 0)
        engine->Cancel(requests[Below(static_cast<int>(requests.size()))]->handle);
      engine->Step();
      ASSERT_LE(engine->Load().running, options.max_sequences);
      finished = std::count_if(requests.begin(), requests.end(),
                               [](const auto& r) { return r->sink.finished.has_value(); });
    }
    for (const auto& r : requests) {
      counts.cached_tokens += r->sink.finished->usage.cached_tokens;
      const Answer& alone = Alone(r->request, options.kv_format);
      if (r->sink.finished->reason == FinishReason::kCancelled) {
        ASSERT_LT(r->sink.ids.size(), alone.ids.size());
        ASSERT_TRUE(std::equal(r->sink.ids.begin(), r->sink.ids.end(), alone.ids.begin()));
      } else {
        ASSERT_EQ(r->sink.finished->reason, alone.reason);
        ASSERT_EQ(r->sink.ids, alone.ids);
        if (r->request.grammar != nullptr && alone.reason == FinishReason::kStop) {
          ASSERT_TRUE(nlohmann::json::accept(r->sink.text)) << r->sink.text;
          ++counts.documents;
        }
      }
    }
    engine->Step();
    counts.lost_pages += engine->Load().kv_pages_used;
    EXPECT_EQ(store.open(), 0u);
  }
  std::printf(
      "%d schedules: %lld preemptions, %lld tokens found in the cache, %lld documents in the grammar, %lld "
      "pages "
      "lost\n",
      Rounds(), static_cast<long long>(counts.preemptions), static_cast<long long>(counts.cached_tokens),
      static_cast<long long>(counts.documents), static_cast<long long>(counts.lost_pages));
  EXPECT_EQ(counts.lost_pages, 0);
  EXPECT_GT(counts.preemptions, 0);
  EXPECT_GT(counts.cached_tokens, 0);
  EXPECT_GT(counts.documents, 0);
}

INSTANTIATE_TEST_SUITE_P(Families, Schedules, testing::ValuesIn(kFamilies),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace clamor
