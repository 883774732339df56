#include "services/worker/engine.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/spec/answer_text.h"
#include "services/worker/knowledge_pool.h"
#include "tests/services/worker/engine_fakes.h"

namespace clamor {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

constexpr SpeculationOptions kPlain = {.nodes = 0};
constexpr SpeculationOptions kModes[] = {
    kPlain, {.shape = TreeShape::kPublished}, {.nodes = 1}, {.nodes = 12}, {.nodes = 64}};
constexpr int32_t kVocab = 640;

void StepUntilIdle(Engine& engine) {
  while (engine.Step()) {
  }
}

class EngineTest : public testing::Test {
 protected:
  // The answer to `request` by an engine of its own.
  RecordingSink Answer(Request request, EngineOptions options = {.default_nodes = 0},
                       ContinuationSource* source = nullptr) {
    const auto engine = MakeEngine(model_, options, &tokenizer_, source);
    RecordingSink sink(static_cast<int64_t>(request.emitted_ids.size()));
    Submit(*engine, std::move(request), sink);
    StepUntilIdle(*engine);
    EXPECT_TRUE(sink.finished.has_value());
    EXPECT_EQ(engine->Load().kv_pages_used, 0);
    return sink;
  }

  // An honest store that has seen `text` before.
  static ScriptedSource Truthful(std::vector<int32_t> text, int delay = 0) {
    return ScriptedSource(
        [text = std::move(text)](std::span<const int32_t> context,
                                 int64_t position) -> std::optional<ContinuationSource::Answer> {
          EXPECT_EQ(context.back(), text[position - 1]);
          ContinuationSource::Answer answer{.position = position,
                                            .trie = {.match_length = 10, .occurrences = 3}};
          for (size_t i = position; i < std::min<size_t>(text.size(), position + 10); ++i) {
            const int32_t parent = static_cast<int32_t>(answer.trie.nodes.size()) - 1;
            answer.trie.nodes.push_back({.token = text[i], .parent = parent, .count = 3});
          }
          return answer;
        },
        delay);
  }

  Request Golden(int number, int32_t max_tokens = 40) const {
    return {.prompt_ids = goldens_[number].prompt_ids, .max_tokens = max_tokens, .ignore_eos = true};
  }
  // The model's head is wider than the vocabulary: ids without a token have no text.
  std::string Decode(std::vector<int32_t> ids) const {
    std::erase_if(ids, [this](int32_t id) { return id >= tokenizer_.vocab_size(); });
    return tokenizer_.Decode(ids, /*skip_specials=*/true).value();
  }

  const Transformer& model_ = TinyModel("llama");
  const Tokenizer& tokenizer_ = TokenizerAt(TinyDirectory("llama"));
  const std::vector<GoldenCase> goldens_ = Goldens("llama");
};

TEST(EngineOptions, ValidateNamesFieldAndBothValues) {
  EXPECT_TRUE(EngineOptions{}.Validate().ok());
  const auto message = [](const EngineOptions& options) { return std::string(options.Validate().message()); };
  EXPECT_THAT(message({.threads = 0}), AllOf(HasSubstr("threads is 0"), HasSubstr("[1, 1024]")));
  EXPECT_THAT(message({.kv_tokens = 255}), AllOf(HasSubstr("kv_tokens is 255"), HasSubstr("[256, ")));
  EXPECT_THAT(message({.max_sequences = 0}), AllOf(HasSubstr("max_sequences is 0"), HasSubstr("[1, 1024]")));
  EXPECT_THAT(message({.max_waiting = -1}), AllOf(HasSubstr("max_waiting is -1"), HasSubstr("[0, ")));
  EXPECT_THAT(message({.prefill_chunk = 0}), AllOf(HasSubstr("prefill_chunk is 0"), HasSubstr("[1, ")));
  EXPECT_THAT(message({.default_nodes = 129}),
              AllOf(HasSubstr("default_nodes is 129"), HasSubstr("[-1, 128]")));
  EXPECT_EQ(Engine::Create(&TinyModel("llama"), nullptr, nullptr, nullptr, {.threads = 0}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(EngineTest, RefusalsNameFieldAndBothValues) {
  struct Case {
    std::function<void(Request&)> spoil;
    std::vector<std::string> words;
  };
  const Case cases[] = {
      {[](Request& r) { r.prompt_ids.clear(); }, {"prompt_ids is empty", "at least one"}},
      {[](Request& r) {
         r.prompt_ids = {1, kVocab};
       },
       {"prompt_ids[1] is 640", "[0, 640)"}},
      {[](Request& r) { r.prompt_ids = {-1}; }, {"prompt_ids[0] is -1", "[0, 640)"}},
      {[](Request& r) {
         r.emitted_ids = {5, 6, -7};
       },
       {"emitted_ids[2] is -7", "[0, 640)"}},
      {[](Request& r) {
         r.emitted_ids = {5, 6, 7}, r.max_tokens = 2;
       },
       {"emitted_ids holds 3", "max_tokens 2"}},
      {[](Request& r) { r.max_tokens = -1; }, {"max_tokens is -1", "at least 0"}},
      {[](Request& r) { r.max_tokens = 512; },
       {"[CONTEXT_TOO_LONG]", "prompt of 1 ", "512", "context of 512"}},
      {[](Request& r) { r.max_tokens = INT32_MAX; }, {"[CONTEXT_TOO_LONG]", "2147483647", "512"}},
      {[](Request& r) { r.prompt_ids.resize(512), r.max_tokens = 0; }, {"[CONTEXT_TOO_LONG]", "512"}},
      {[](Request& r) { r.emitted_ids.resize(512), r.max_tokens = 0; }, {"[CONTEXT_TOO_LONG]", "512"}},
      {[](Request& r) { r.sampling.temperature = -2; }, {"temperature is -2", "[0, 100]"}},
      {[](Request& r) { r.sampling.top_p = 0; }, {"top_p is 0", "(0, 1]"}},
      {[](Request& r) { r.sampling.top_k = -1; }, {"top_k is -1", "at least 0"}},
      {[](Request& r) { r.sampling.min_p = 7; }, {"min_p is 7", "[0, 1]"}},
      {[](Request& r) { r.stop.resize(17, "x"); }, {"stop holds 17", "16"}},
      {[](Request& r) {
         r.stop = {"a", ""};
       },
       {"stop[1] has 0 bytes", "1 to 256"}},
      {[](Request& r) { r.stop = {std::string(257, 'x')}; }, {"stop[0] has 257 bytes", "256"}},
      {[](Request& r) { r.speculation.nodes = 129; }, {"nodes is 129", "128"}},
      {[](Request& r) { r.speculation.nodes = -2; }, {"nodes is -2", "128"}},
  };
  const auto engine = MakeEngine(model_, {.default_nodes = 0});
  for (const Case& c : cases) {
    Request request = Golden(0);
    c.spoil(request);
    RecordingSink sink;
    const auto handle = engine->Submit(std::move(request), &sink);
    ASSERT_FALSE(handle.ok()) << c.words[0];
    EXPECT_EQ(handle.status().code(), absl::StatusCode::kInvalidArgument);
    for (const std::string& word : c.words)
      EXPECT_THAT(std::string(handle.status().message()), HasSubstr(word));
    EXPECT_FALSE(engine->Step());
    EXPECT_FALSE(sink.started || sink.finished.has_value()) << "a refused request's sink is not called";
  }
}

TEST_F(EngineTest, ARequestLargerThanTheCacheIsRefusedNotStuck) {
  const auto engine = MakeEngine(model_, {.kv_tokens = 256, .default_nodes = 0});
  RecordingSink sink;
  const auto handle = engine->Submit(Golden(3, /*max_tokens=*/100), &sink);  // 70 + 100 > 256 - 128
  EXPECT_THAT(std::string(handle.status().message()),
              AllOf(StartsWith("[CONTEXT_TOO_LONG]"), HasSubstr("prompt of 70"), HasSubstr("max_tokens 100"),
                    HasSubstr("128")));
  RecordingSink fits;
  Submit(*engine, Golden(3, 58), fits);
  StepUntilIdle(*engine);
  EXPECT_EQ(fits.ids.size(), 58u);
}

TEST_F(EngineTest, WithoutMaxTokensTheContextEndsTheAnswer) {
  const RecordingSink sink = Answer(Golden(2, /*max_tokens=*/0), {.default_nodes = 8});
  EXPECT_EQ(sink.ids.size(), 512u - goldens_[2].prompt_ids.size());
  EXPECT_EQ(sink.finished->reason, FinishReason::kLength);
}

TEST_F(EngineTest, QueueLimitAndDrain) {
  const auto engine = MakeEngine(model_, {.max_sequences = 1, .max_waiting = 2, .default_nodes = 0});
  RecordingSink sinks[4];
  Submit(*engine, Golden(0), sinks[0]);
  engine->Step();
  Submit(*engine, Golden(1), sinks[1]);
  Submit(*engine, Golden(2), sinks[2]);
  EXPECT_EQ(engine->Load().running, 1);
  EXPECT_EQ(engine->Load().waiting, 2);
  const auto full = engine->Submit(Golden(3), &sinks[3]);
  EXPECT_EQ(full.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(full.status().message()),
              AllOf(StartsWith("[QUEUE_FULL]"), HasSubstr("limit is 2")));
  engine->Drain();
  const auto draining = engine->Submit(Golden(3), &sinks[3]);
  EXPECT_EQ(draining.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(draining.status().message()), StartsWith("[DRAINING]"));
  StepUntilIdle(*engine);  // what was accepted goes on
  for (int i = 0; i < 3; ++i) EXPECT_EQ(sinks[i].ids, goldens_[i].greedy_ids);
  EXPECT_FALSE(sinks[3].started || sinks[3].finished.has_value());
}

TEST_F(EngineTest, CancelFreesPagesWithinAStep) {
  const auto engine = MakeEngine(model_, {.max_sequences = 1, .default_nodes = 0});
  RecordingSink running, waiting, next;
  const uint64_t first = Submit(*engine, Golden(4), running);
  const uint64_t second = Submit(*engine, Golden(0), waiting);
  for (int i = 0; i < 5; ++i) engine->Step();
  EXPECT_GT(engine->Load().kv_pages_used, 0);
  engine->Cancel(first, FinishReason::kSlowConsumer);
  engine->Cancel(second);
  engine->Step();
  EXPECT_EQ(engine->Load().kv_pages_used, 0);
  EXPECT_EQ(running.finished->reason, FinishReason::kSlowConsumer);
  EXPECT_EQ(running.finished->usage.completion_tokens, static_cast<int32_t>(running.ids.size()));
  EXPECT_GT(running.ids.size(), 0u);
  EXPECT_EQ(waiting.finished->reason, FinishReason::kCancelled);
  EXPECT_FALSE(waiting.started);
  EXPECT_EQ(waiting.finished->usage.completion_tokens, 0);
  engine->Cancel(first);      // long gone
  engine->Cancel(123456789);  // never was
  Submit(*engine, Golden(1), next);
  StepUntilIdle(*engine);
  EXPECT_EQ(next.ids, goldens_[1].greedy_ids);
}

TEST_F(EngineTest, CancelWhileThePromptIsRead) {
  const auto engine = MakeEngine(model_, {.prefill_chunk = 10, .default_nodes = 16});
  RecordingSink sink;
  const uint64_t handle = Submit(*engine, Golden(4), sink);
  engine->Step();
  engine->Step();
  engine->Cancel(handle);
  EXPECT_FALSE(engine->Step());
  EXPECT_EQ(sink.finished->reason, FinishReason::kCancelled);
  EXPECT_TRUE(sink.ids.empty());
  EXPECT_EQ(engine->Load().kv_pages_used, 0);
}

TEST_F(EngineTest, DeadlineEndsWaitingAndRunning) {
  const auto engine = MakeEngine(model_, {.max_sequences = 1, .default_nodes = 0});
  RecordingSink running, waiting, patient;
  Request request = Golden(0, 400);
  request.deadline = absl::Now() + absl::Milliseconds(50);
  Submit(*engine, request, running);
  engine->Step();
  request.deadline = absl::InfinitePast();
  Submit(*engine, request, waiting);
  Submit(*engine, Golden(1), patient);
  absl::SleepFor(absl::Milliseconds(60));
  StepUntilIdle(*engine);
  EXPECT_EQ(running.finished->reason, FinishReason::kDeadline);
  EXPECT_EQ(waiting.finished->reason, FinishReason::kDeadline);
  EXPECT_FALSE(waiting.started);
  EXPECT_EQ(patient.finished->reason, FinishReason::kLength);
}

// Cut at every length, with paths of a truthful store that run across the cut: ids, text and counts end
// together.
TEST_F(EngineTest, MaxTokensCutsInsideAPath) {
  const std::vector<int32_t>& whole = goldens_[2].greedy_ids;
  std::vector<int32_t> text = goldens_[2].prompt_ids;
  text.insert(text.end(), whole.begin(), whole.end());
  for (const SpeculationOptions& mode : kModes) {
    for (int32_t n = 1; n <= 40; n += kSanitized ? 7 : 1) {
      ScriptedSource store = Truthful(text);
      Request request = Golden(2, n);
      request.speculation = mode;
      const RecordingSink sink = Answer(request, {.default_nodes = 0}, &store);
      const std::vector<int32_t> expected(whole.begin(), whole.begin() + n);
      ASSERT_EQ(sink.ids, expected);
      ASSERT_EQ(sink.text, Decode(expected));
      ASSERT_EQ(sink.finished->reason, FinishReason::kLength);
      ASSERT_EQ(sink.finished->usage.completion_tokens, n);
      ASSERT_EQ(sink.finished->usage.prompt_tokens, 17);
      ASSERT_EQ(sink.finished->stats.forwards, sink.deltas);
    }
  }
}

// Every piece of the answer's text as a stop string.
TEST_F(EngineTest, StopStringsCutIdsAndTextAtTheSamePlace) {
  const std::vector<int32_t>& whole = goldens_[2].greedy_ids;
  const std::string text = Decode(whole);
  std::vector<int32_t> known = goldens_[2].prompt_ids;
  known.insert(known.end(), whole.begin(), whole.end());
  int stopped = 0;
  for (size_t begin = 0; begin + 3 < text.size(); begin += kSanitized ? 9 : 2) {
    const std::string stop = text.substr(begin, 3);
    // By the rules: the shortest prefix of the ids whose streamed text holds the stop string.
    AnswerText answer(&tokenizer_, {stop});
    std::string expected;
    std::vector<int32_t> ids;
    bool done = false;
    while (!done && ids.size() < whole.size()) {
      ids.push_back(whole[ids.size()]);
      done = answer.Add(ids.back(), expected);
    }
    answer.Finish(expected);
    for (const SpeculationOptions& mode : kModes) {
      ScriptedSource store = Truthful(known);
      Request request = Golden(2);
      request.stop = {"no such text", stop};
      request.speculation = mode;
      const RecordingSink sink = Answer(request, {.default_nodes = 0}, &store);
      ASSERT_EQ(sink.ids, ids) << stop;
      ASSERT_EQ(sink.text, expected) << stop;
      ASSERT_EQ(sink.finished->matched_stop, answer.matched_stop());
      ASSERT_EQ(sink.finished->reason,
                answer.matched_stop().empty() ? FinishReason::kLength : FinishReason::kStop);
      ASSERT_EQ(sink.finished->usage.completion_tokens, static_cast<int32_t>(ids.size()));
      stopped += !answer.matched_stop().empty();
    }
  }
  EXPECT_GT(stopped, 20);
}

// A copy of the tiny model whose authors named several ids that end an answer.
TEST_F(EngineTest, AnyOfSeveralEosIdsEndsTheAnswer) {
  const std::vector<int32_t>& whole = goldens_[3].greedy_ids;
  const int32_t early = whole[9], late = whole[25];
  const std::string directory = testing::TempDir() + "/several_eos";
  std::filesystem::remove_all(directory);
  std::filesystem::copy(TinyDirectory("llama"), directory);
  std::ofstream(directory + "/generation_config.json", std::ios::trunc)
      << "{\"bos_token_id\": 0, \"eos_token_id\": [" << late << ", 639, " << early << "]}";
  const Transformer& model = ModelAt(directory);
  const size_t end = std::find_if(whole.begin(), whole.end(),
                                  [&](int32_t id) { return id == early || id == late || id == 639; }) -
                     whole.begin() + 1;
  for (const SpeculationOptions& mode : kModes) {
    for (const bool ignore : {false, true}) {
      const auto engine = MakeEngine(model, {.default_nodes = 0});
      Request request = Golden(3);
      request.ignore_eos = ignore;
      request.speculation = mode;
      RecordingSink sink;
      Submit(*engine, request, sink);
      StepUntilIdle(*engine);
      ASSERT_EQ(sink.ids.size(), ignore ? 40 : end);
      ASSERT_TRUE(std::equal(sink.ids.begin(), sink.ids.end(), whole.begin()));
      ASSERT_EQ(sink.finished->reason, ignore ? FinishReason::kLength : FinishReason::kStop);
      ASSERT_EQ(sink.finished->matched_stop, "");
    }
  }
}

// An answer that another worker began, at every place, goes on as if nothing had been: ids and text.
TEST_F(EngineTest, ResumesAtEveryIndex) {
  struct Case {
    SamplingOptions sampling;
    std::vector<std::string> stop;
  };
  const Case cases[] = {{},
                        {.sampling = {.temperature = 0.9f, .top_k = 50, .top_p = 0.95f, .seed = 11}},
                        {.stop = {"zzz", "ing"}}};
  for (const Case& c : cases) {
    Request request = Golden(3, 30);
    request.sampling = c.sampling;
    request.stop = c.stop;
    const RecordingSink whole = Answer(request);
    for (size_t split = 0; split <= whole.ids.size();
         split += kSanitized && split + 5 <= whole.ids.size() ? 5 : 1) {
      // The first worker dies after `split` tokens: what it had sent by then.
      AnswerText sent_text(&tokenizer_, c.stop);
      std::string sent;
      for (size_t i = 0; i < split; ++i) sent_text.Add(whole.ids[i], sent);
      Request rest = request;
      rest.emitted_ids.assign(whole.ids.begin(), whole.ids.begin() + static_cast<int64_t>(split));
      rest.speculation = kModes[split % std::size(kModes)];
      const RecordingSink sink =
          Answer(rest, {.prefill_chunk = 1 + static_cast<int32_t>(split), .default_nodes = 0});
      std::vector<int32_t> ids = rest.emitted_ids;
      ids.insert(ids.end(), sink.ids.begin(), sink.ids.end());
      ASSERT_EQ(ids, whole.ids) << "split at " << split;
      if (split < whole.ids.size()) {
        ASSERT_EQ(sent + sink.text, whole.text) << "split at " << split;
      }
      ASSERT_EQ(sink.finished->reason, whole.finished->reason);
      ASSERT_EQ(sink.finished->matched_stop, whole.finished->matched_stop);
      ASSERT_EQ(sink.finished->usage.completion_tokens, static_cast<int32_t>(whole.ids.size() - split));
    }
  }
}

TEST_F(EngineTest, StatisticsAddUp) {
  for (const SpeculationOptions& mode : kModes) {
    for (int number = 0; number < (kSanitized ? 2 : 5); ++number) {
      Request request = Golden(number);
      request.speculation = mode;
      const RecordingSink sink = Answer(request, {.default_nodes = 0});
      const GenerationStats& stats = sink.finished->stats;
      int64_t accepted = 0;
      for (size_t source = 0; source < kSources; ++source) {
        const auto by_delta =
            std::count(sink.sources.begin(), sink.sources.end(), static_cast<Source>(source));
        if (static_cast<Source>(source) == Source::kNone) continue;
        EXPECT_EQ(stats.accepted_by_source[source], by_delta);
        accepted += stats.accepted_by_source[source];
      }
      // Each forward emits its drafts and one token of its own, but for the last, if it was cut inside its
      // path.
      const bool cut = sink.sources.back() != Source::kNone;
      EXPECT_EQ(accepted + stats.forwards - cut, 40);
      EXPECT_EQ(stats.forwards, sink.deltas);
      EXPECT_EQ(stats.accepted_by_source[0], 0);
      if (mode.nodes == 0) {
        EXPECT_EQ(stats.forwards, 40);
        EXPECT_EQ(stats.draft_nodes, 0);
      } else {
        EXPECT_GE(stats.draft_nodes, accepted);
        EXPECT_LE(stats.draft_nodes,
                  stats.forwards * (mode.shape == TreeShape::kPublished ? 68 : mode.nodes));
      }
      EXPECT_GE(stats.prefill_seconds, 0);
      EXPECT_GE(stats.decode_seconds, 0);
      EXPECT_GE(stats.queue_seconds, 0);
    }
  }
}

class Totals : public StepObserver {
 public:
  void OnStep(const StepReport& report) override {
    ++steps;
    rows += report.rows;
    prompt += report.prompt_tokens;
    emitted += report.emitted_tokens;
    forwards += report.forwards;
    for (size_t i = 0; i < kSources; ++i) drafted += report.drafted[i], accepted += report.accepted[i];
    for (const double seconds : report.seconds) EXPECT_GE(seconds, 0);
  }
  void OnAccepted(int32_t tokens) override { from_sequences += tokens; }
  int64_t steps = 0, rows = 0, prompt = 0, emitted = 0, forwards = 0, drafted = 0, accepted = 0,
          from_sequences = 0;
};

TEST_F(EngineTest, StepReportsAddUpToWhatWasSent) {
  Totals totals;
  const auto engine =
      MakeEngine(model_, {.prefill_chunk = 16, .default_nodes = 10}, nullptr, nullptr, &totals);
  RecordingSink sinks[5];
  for (int i = 0; i < 5; ++i) Submit(*engine, Golden(i), sinks[i]);
  StepUntilIdle(*engine);
  int64_t forwards = 0, drafted = 0;
  for (const RecordingSink& sink : sinks) {
    forwards += sink.finished->stats.forwards;
    drafted += sink.finished->stats.draft_nodes;
  }
  EXPECT_EQ(totals.emitted, 200);
  EXPECT_EQ(totals.from_sequences, 200);
  EXPECT_EQ(totals.forwards, forwards);
  EXPECT_EQ(totals.drafted, drafted);
  EXPECT_EQ(totals.prompt, 0 + 1 + 16 + 69 + 149)
      << "all prompt tokens but each one's last, which is its first root";
  EXPECT_EQ(totals.rows, totals.prompt + totals.forwards + totals.drafted);
  EXPECT_EQ(engine->Load().steps, totals.steps);
}

TEST_F(EngineTest, StoresOfEveryCharacter) {
  std::vector<int32_t> text = goldens_[3].prompt_ids;
  text.insert(text.end(), goldens_[3].greedy_ids.begin(), goldens_[3].greedy_ids.end());
  std::mt19937 random(1);
  Request request = Golden(3);
  request.speculation.nodes = 16;
  const RecordingSink alone = Answer(request);

  ScriptedSource truthful = Truthful(text);
  const RecordingSink fast = Answer(request, {.default_nodes = 0}, &truthful);
  EXPECT_EQ(fast.ids, alone.ids);
  EXPECT_LT(fast.finished->stats.forwards, 10);
  EXPECT_GT(fast.finished->stats.accepted_by_source[static_cast<size_t>(Source::kStore)], 20);
  EXPECT_LT(truthful.questions, 10) << "no question while the last answer still serves";

  ScriptedSource slow = Truthful(text, /*delay=*/2);
  const RecordingSink late = Answer(request, {.default_nodes = 0}, &slow);
  EXPECT_EQ(late.ids, alone.ids);
  EXPECT_LT(late.finished->stats.forwards, alone.finished->stats.forwards);

  ScriptedSource dead([](std::span<const int32_t>, int64_t) { return std::nullopt; });
  EXPECT_EQ(Answer(request, {.default_nodes = 0}, &dead).ids, alone.ids);
  EXPECT_GT(dead.questions, 5);

  ScriptedSource liar(
      [&](std::span<const int32_t>, int64_t position) { return HostileAnswer(position, kVocab, random); });
  EXPECT_EQ(Answer(request, {.default_nodes = 0}, &liar).ids, alone.ids);

  ScriptedSource unasked([](std::span<const int32_t>, int64_t) { return std::nullopt; });
  request.use_store = false;
  EXPECT_EQ(Answer(request, {.default_nodes = 0}, &unasked).ids, alone.ids);
  EXPECT_EQ(unasked.questions, 0) << "the request wants nothing from the store";
  request.use_store = true;
  request.speculation = kPlain;
  EXPECT_EQ(Answer(request, {.default_nodes = 0}, &unasked).ids, alone.ids);
  EXPECT_EQ(unasked.questions, 0) << "plain decoding has no use for a store";
  for (const ScriptedSource* source : {&truthful, &slow, &dead, &liar}) {
    EXPECT_EQ(source->open(), 0u);
    EXPECT_EQ(source->forgotten(), 1u);
  }
}

// What one tenant's texts taught must not show in another's speed.
TEST_F(EngineTest, TenantsLearnApart) {
  const auto engine = MakeEngine(model_, {.default_nodes = 16});
  const auto forwards = [&](const std::string& tenant) {
    Request request = Golden(4);
    request.tenant = tenant;
    RecordingSink sink;
    Submit(*engine, request, sink);
    StepUntilIdle(*engine);
    return sink.finished->stats.forwards;
  };
  const int64_t first = forwards("a");
  const int64_t again = forwards("a");
  EXPECT_LT(again, first) << "the test needs an effect to look for";
  EXPECT_EQ(forwards("b"), first);
}

TEST(KnowledgePool, ForgetsTheLongestUnusedTenant) {
  KnowledgePool pool;
  const auto kept = pool.Get("kept");
  const std::weak_ptr<DraftKnowledge> idle = pool.Get("idle"), running = pool.Get("running");
  const std::shared_ptr<DraftKnowledge> in_use = running.lock();
  for (size_t i = 0; i < KnowledgePool::kTenants; ++i) {
    pool.Get(std::to_string(i));
    EXPECT_EQ(pool.Get("kept"), kept);
  }
  EXPECT_TRUE(idle.expired());
  EXPECT_FALSE(running.expired()) << "its sequence still holds it";
  EXPECT_NE(pool.Get("running"), in_use) << "but the pool has forgotten it";
}

TEST_F(EngineTest, ADrafterFactoryReplacesTheBuiltInOnes) {
  std::vector<int32_t> text = goldens_[1].prompt_ids;
  text.insert(text.end(), goldens_[1].greedy_ids.begin(), goldens_[1].greedy_ids.end());
  int made = 0;
  EngineOptions options{.default_nodes = 0};
  options.drafter_factory = [&](const Request& request) {
    EXPECT_EQ(request.prompt_ids, goldens_[1].prompt_ids);
    ++made;
    return std::make_unique<RandomDrafter>(text, kVocab, 1);
  };
  Request request = Golden(1);
  request.speculation.nodes = 30;
  const RecordingSink sink = Answer(request, options);
  EXPECT_EQ(sink.ids, goldens_[1].greedy_ids);
  EXPECT_GT(sink.finished->stats.accepted_by_source[static_cast<size_t>(Source::kNoise)], 10);
  EXPECT_EQ(made, 1);
  request.speculation = kPlain;
  EXPECT_EQ(Answer(request, options).ids, goldens_[1].greedy_ids);
  EXPECT_EQ(made, 1) << "plain decoding needs none";
}

// A sink whose end another thread may wait for.
class AwaitedSink : public RecordingSink {
 public:
  void OnFinished(const Finished& finished) override {
    RecordingSink::OnFinished(finished);
    done.Notify();
  }
  absl::Notification done;
};

TEST_F(EngineTest, RunsOnItsOwnThreadWhileOthersSubmitAndCancel) {
  const auto engine = MakeEngine(model_, {.threads = 2, .max_sequences = 4, .default_nodes = 8});
  std::atomic<bool> stop = false;
  std::thread runner([&] { engine->Run(stop); });
  constexpr int kThreads = 3, kEach = kSanitized ? 4 : 10;
  std::vector<std::thread> clients;
  for (int t = 0; t < kThreads; ++t) {
    clients.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) {
        const int number = (t + i) % 5;
        AwaitedSink sink;
        const uint64_t handle = Submit(*engine, Golden(number), sink);
        if (i % 3 == 2) engine->Cancel(handle);
        if (i % 2 == 0) engine->WakeUp();
        EXPECT_GE(engine->Load().kv_pages_total, engine->Load().kv_pages_used);
        sink.done.WaitForNotification();
        if (sink.finished->reason == FinishReason::kLength) {
          EXPECT_EQ(sink.ids, goldens_[number].greedy_ids);
        } else {
          EXPECT_EQ(sink.finished->reason, FinishReason::kCancelled);
          EXPECT_EQ(i % 3, 2);
        }
      }
    });
  }
  for (std::thread& client : clients) client.join();
  stop = true;
  engine->WakeUp();
  runner.join();
  EXPECT_EQ(engine->Load().running, 0);
  EXPECT_EQ(engine->Load().kv_pages_used, 0);
}

TEST_F(EngineTest, StoppingFinishesWhoeverIsThere) {
  const auto engine = MakeEngine(model_, {.max_sequences = 1, .default_nodes = 0});
  std::atomic<bool> stop = false;
  AwaitedSink running, waiting;
  absl::Notification emitting;
  running.on_delta = [&] {
    if (!emitting.HasBeenNotified()) emitting.Notify();
    absl::SleepFor(absl::Milliseconds(1));  // so that it cannot end by itself first
  };
  Submit(*engine, Golden(0, 500), running);
  Submit(*engine, Golden(1), waiting);
  std::thread runner([&] { engine->Run(stop); });
  emitting.WaitForNotification();
  stop = true;
  engine->WakeUp();
  runner.join();
  EXPECT_EQ(running.finished->reason, FinishReason::kCancelled);
  EXPECT_EQ(waiting.finished->reason, FinishReason::kCancelled);
  EXPECT_EQ(engine->Load().kv_pages_used, 0);
}

}  // namespace
}  // namespace clamor
