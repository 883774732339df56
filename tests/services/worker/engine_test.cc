#include "services/worker/engine.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/spec/answer_text.h"
#include "tests/services/worker/engine_fixture.h"

namespace clamor {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

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
      {[](Request& r) { r.sampling.repetition_penalty = 0; }, {"repetition_penalty is 0", "[0.01, 100]"}},
      {[](Request& r) {
         r.sampling.logit_bias = {{640, 1}};
       },
       {"logit_bias[640]", "[0, 640)"}},
      {[](Request& r) { r.sampling.banned_token_ids = {640}; },
       {"sampling.banned_token_ids[0] is 640", "[0, 640)"}},
      {[](Request& r) { r.stop_token_ids = {-1}; }, {"stop_token_ids[0] is -1", "[0, 640)"}},
      {[](Request& r) { r.stop_token_ids.resize(65); }, {"stop_token_ids holds 65", "64"}},
      {[](Request& r) { r.min_tokens = 41; }, {"min_tokens is 41", "[0, 40]"}},
      {[](Request& r) { r.min_tokens = -1, r.max_tokens = 0; }, {"min_tokens is -1", "[0, 2147483647]"}},
      {[](Request& r) { r.top_logprobs = 21; }, {"top_logprobs is 21", "[0, 20]"}},
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
  Request further = Golden(3);
  further.follows = true;
  Submit(*engine, further, sinks[3]);  // though full and draining: its first answer has begun
  StepUntilIdle(*engine);  // what was accepted goes on
  for (int i = 0; i < 4; ++i) EXPECT_EQ(sinks[i].ids, goldens_[i].greedy_ids);
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

}  // namespace
}  // namespace clamor
