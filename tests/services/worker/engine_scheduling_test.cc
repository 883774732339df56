// Who runs, who waits, whose pages are reused: priorities, loss of pages, shared beginnings, deadlines.
#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/services/worker/engine_fixture.h"

namespace clamor {
namespace {

class Reports : public StepObserver {
 public:
  void OnStep(const StepReport& report) override {
    preemptions += report.preemptions;
    displacements += report.displacements;
    prompt_tokens += report.prompt_tokens;
  }
  void OnAccepted(int32_t) override {}
  int64_t preemptions = 0, displacements = 0, prompt_tokens = 0;
};

class EngineSchedulingTest : public EngineTest {
 protected:
  Reports reports_;
};

TEST_F(EngineSchedulingTest, ABeginningThatWasReadIsNotReadAgain) {
  const auto engine = MakeEngine(model_, {.default_nodes = 8}, &tokenizer_, nullptr, &reports_);
  const int64_t prompt = static_cast<int64_t>(goldens_[4].prompt_ids.size());
  const int64_t pages = (prompt - 1) / kernels::kPageSize;
  ASSERT_GT(pages, 2);
  Request request = Golden(4);
  request.tenant = "a";
  const auto ask = [&](const Request& r) {
    RecordingSink sink;
    reports_.prompt_tokens = 0;
    Submit(*engine, r, sink);
    StepUntilIdle(*engine);
    EXPECT_EQ(sink.finished->usage.cached_tokens, sink.cached_tokens);
    EXPECT_EQ(engine->Load().kv_pages_used, 0);
    return sink;
  };
  const RecordingSink first = ask(request);
  EXPECT_EQ(first.cached_tokens, 0);
  EXPECT_EQ(reports_.prompt_tokens, prompt - 1);
  const RecordingSink again = ask(request);
  EXPECT_EQ(again.cached_tokens, pages * kernels::kPageSize);
  EXPECT_EQ(reports_.prompt_tokens, prompt - 1 - again.cached_tokens);
  EXPECT_EQ(again.ids, first.ids);
  request.tenant = "b";
  const RecordingSink other = ask(request);
  EXPECT_EQ(other.cached_tokens, 0) << "another tenant's pages";
  EXPECT_EQ(other.ids, first.ids);

  // The next turn of a conversation finds the answer too.
  request.tenant = "a";
  request.prompt_ids.insert(request.prompt_ids.end(), first.ids.begin(), first.ids.begin() + 35);
  const RecordingSink next = ask(request);
  EXPECT_GE(next.cached_tokens, (prompt + 30) / kernels::kPageSize * kernels::kPageSize);
  EXPECT_TRUE(std::equal(first.ids.begin() + 35, first.ids.end(), next.ids.begin()));

  // So does a second answer to a prompt whose first ended in the step that read it.
  request.tenant = "c";
  request.max_tokens = 1;
  EXPECT_EQ(ask(request).cached_tokens, 0);
  EXPECT_GT(ask(request).cached_tokens, 0);
}

TEST_F(EngineSchedulingTest, PriorityThenArrival) {
  const auto engine = MakeEngine(model_, {.max_sequences = 1, .default_nodes = 0});
  constexpr Priority kPriorities[] = {Priority::kLow, Priority::kNormal, Priority::kHigh,
                                      Priority::kLow, Priority::kNormal, Priority::kHigh};
  RecordingSink sinks[6];
  std::vector<int> order;
  for (int i = 0; i < 6; ++i) {
    Request request = Golden(0, 3);
    request.priority = kPriorities[i];
    sinks[i].on_delta = [&order, i] {
      if (order.empty() || order.back() != i) order.push_back(i);
    };
    Submit(*engine, request, sinks[i]);
  }
  StepUntilIdle(*engine);
  EXPECT_EQ(order, (std::vector<int>{2, 5, 1, 4, 0, 3}));
}

TEST_F(EngineSchedulingTest, WhatAnotherWorkerBeganGoesFirst) {
  const auto engine = MakeEngine(model_, {.max_sequences = 1, .max_waiting = 1, .default_nodes = 0});
  std::string order;
  RecordingSink sinks[3];
  for (int i = 0; i < 3; ++i) sinks[i].on_delta = [&order, i] { order += static_cast<char>('0' + i); };
  Submit(*engine, Golden(0, 1), sinks[0]);
  engine->Step();
  Submit(*engine, Golden(0, 1), sinks[1]);
  Request urgent = Golden(0, 1);
  urgent.priority = Priority::kHigh;
  urgent.follows = true;  // or the full queue would refuse it
  Submit(*engine, urgent, sinks[2]);
  Request begun = Golden(0, 2);
  begun.emitted_ids = {goldens_[0].greedy_ids[0]};
  begun.follows = true;
  RecordingSink rest(1);
  rest.on_delta = [&order] { order += 'r'; };
  Submit(*engine, begun, rest);
  StepUntilIdle(*engine);
  EXPECT_EQ(order, "02r1");
  EXPECT_EQ(rest.ids, std::vector<int32_t>{goldens_[0].greedy_ids[1]});
}

TEST_F(EngineSchedulingTest, StalledWhileThereIsWorkAndNoStepEnds) {
  const auto engine = MakeEngine(model_, {});
  EXPECT_EQ(engine->Load().stalled_seconds, 0);
  const double expected = engine->Load().slow_step_seconds;
  EXPECT_GT(expected, 0) << "measured before the first request";
  RecordingSink sink;
  Submit(*engine, Golden(0), sink);
  const absl::Duration pause = absl::Seconds(2 * expected);
  absl::SleepFor(pause);
  const double before = engine->Load().stalled_seconds;
  EXPECT_GE(before, absl::ToDoubleSeconds(pause));
  engine->Step();
  const double slowest = engine->Load().slow_step_seconds;
  EXPECT_GE(slowest, before) << "the wait counts, too";
  absl::SleepFor(pause);
  EXPECT_GE(engine->Load().stalled_seconds, absl::ToDoubleSeconds(pause)) << "the answer is not complete";
  StepUntilIdle(*engine);
  EXPECT_EQ(engine->Load().stalled_seconds, 0);
  for (int i = 0; i < 3; ++i) {
    RecordingSink more;
    Submit(*engine, Golden(0), more);
    StepUntilIdle(*engine);
  }
  EXPECT_LT(engine->Load().slow_step_seconds, slowest) << "slow steps are forgotten";

  const auto unmeasured = MakeEngine(model_, {.default_nodes = 0});
  RecordingSink unknown;
  Submit(*unmeasured, Golden(0), unknown);
  StepUntilIdle(*unmeasured);
  EXPECT_EQ(unmeasured->Load().slow_step_seconds, 0);
}

TEST_F(EngineSchedulingTest, WhoCameLastLosesItsPagesAndItsAnswerIsTheSame) {
  for (const int32_t nodes : {0, 64}) {
    const auto alone = [&](int golden, uint64_t seed) {
      Request request = Golden(golden, 150);
      request.sampling = {.temperature = 0.9f, .seed = seed};
      return request;
    };
    reports_ = {};
    const auto engine =
        MakeEngine(model_, {.kv_tokens = 400, .default_nodes = nodes}, &tokenizer_, nullptr, &reports_);
    RecordingSink sinks[3];
    for (int i = 0; i < 3; ++i) Submit(*engine, alone(i, i), sinks[i]);
    std::vector<uint64_t> finished;
    for (int steps = 0; engine->Step(); ++steps) {
      ASSERT_LT(steps, 2000);
      for (uint64_t i = 0; i < 3; ++i) {
        if (sinks[i].finished && std::find(finished.begin(), finished.end(), i) == finished.end()) {
          finished.push_back(i);
        }
      }
    }
    EXPECT_GT(reports_.preemptions, 0);
    // With drafts a younger one may be faster.
    if (nodes == 0) {
      EXPECT_EQ(finished.front(), 0u) << "the oldest never loses its pages";
    }
    for (int i = 0; i < 3; ++i) EXPECT_EQ(sinks[i].ids, Answer(alone(i, i)).ids) << i;
    EXPECT_EQ(engine->Load().kv_pages_used, 0);
  }
}

TEST_F(EngineSchedulingTest, LowPriorityLosesItsPagesThoughItCameFirst) {
  const auto engine = MakeEngine(model_, {.kv_tokens = 400, .default_nodes = 0}, nullptr, nullptr, &reports_);
  RecordingSink low, high;
  Request request = Golden(0, 200);
  request.priority = Priority::kLow;
  Submit(*engine, request, low);
  for (int i = 0; i < 5; ++i) engine->Step();
  request = Golden(1, 200);
  request.priority = Priority::kHigh;
  Submit(*engine, request, high);
  bool waited = false;
  high.on_delta = [&] { waited |= engine->Load().waiting > 0; };
  StepUntilIdle(*engine);
  EXPECT_GT(reports_.preemptions, 0);
  EXPECT_TRUE(waited) << "the low one, for the high one";
  EXPECT_EQ(low.ids.size(), 200u);
  EXPECT_EQ(high.ids.size(), 200u);
}

TEST_F(EngineSchedulingTest, APromptOfHighPriorityComesBeforeAllOtherWork) {
  constexpr int32_t kChunk = 8;
  const auto engine =
      MakeEngine(model_, {.prefill_chunk = kChunk, .default_nodes = 0}, nullptr, nullptr, &reports_);
  RecordingSink normal, high;
  Submit(*engine, Golden(0, 100), normal);
  while (normal.ids.size() < 3) ASSERT_TRUE(engine->Step());
  const size_t before = normal.ids.size();
  Request request{.prompt_ids = std::vector<int32_t>(6 * kChunk, 3), .max_tokens = 4};
  request.priority = Priority::kHigh;
  Submit(*engine, request, high);
  for (int i = 0; i < 6; ++i) engine->Step();
  EXPECT_EQ(high.ids.size(), 1u) << "six chunks, as if nobody else were there";
  EXPECT_EQ(normal.ids.size(), before);
  StepUntilIdle(*engine);
  EXPECT_EQ(normal.ids, Answer(Golden(0, 100)).ids);

  RecordingSink patient, endless;
  Submit(*engine, Golden(0, 100), patient);
  while (patient.ids.empty()) ASSERT_TRUE(engine->Step());
  request.prompt_ids.assign(40 * kChunk, 4);
  Submit(*engine, request, endless);
  for (int i = 0; i < 27; ++i) engine->Step();
  EXPECT_TRUE(endless.ids.empty());
  EXPECT_EQ(patient.ids.size(), 4u) << "one step of nine is everybody's";
  StepUntilIdle(*engine);
}

TEST_F(EngineSchedulingTest, HighPriorityTakesTheLastPlace) {
  const auto engine =
      MakeEngine(model_, {.max_sequences = 2, .default_nodes = 0}, nullptr, nullptr, &reports_);
  RecordingSink first, second, high, higher, third;
  Submit(*engine, Golden(0, 60), first);
  Submit(*engine, Golden(1, 60), second);
  for (int i = 0; i < 5; ++i) engine->Step();
  Request request = Golden(2, 10);
  request.priority = Priority::kHigh;
  Submit(*engine, request, high);
  engine->Step();
  EXPECT_EQ(high.ids.size(), 1u);
  EXPECT_EQ(reports_.displacements, 1);
  Submit(*engine, request, higher);
  Submit(*engine, request, third);
  engine->Step();
  EXPECT_EQ(higher.ids.size(), 1u);
  EXPECT_TRUE(third.ids.empty()) << "no lower one is left";
  EXPECT_EQ(reports_.displacements, 2);
  StepUntilIdle(*engine);
  EXPECT_EQ(third.ids, high.ids);
  EXPECT_EQ(first.ids, Answer(Golden(0, 60)).ids);
  EXPECT_EQ(second.ids, Answer(Golden(1, 60)).ids);
}

TEST_F(EngineSchedulingTest, WhoCannotSeeAFirstTokenInTimeIsNotStarted) {
  const auto engine = MakeEngine(model_, {});  // measures steps
  Request request{.prompt_ids = std::vector<int32_t>(500, 3), .max_tokens = 5};
  request.deadline = absl::Now() + absl::Microseconds(300);
  RecordingSink late, patient;
  Submit(*engine, request, late);
  StepUntilIdle(*engine);
  EXPECT_EQ(late.finished->reason, FinishReason::kDeadline);
  EXPECT_FALSE(late.started) << "500 tokens in 300 microseconds";
  request.deadline = absl::Now() + absl::Hours(1);
  Submit(*engine, request, patient);
  StepUntilIdle(*engine);
  EXPECT_EQ(patient.finished->reason, FinishReason::kLength);
}

}  // namespace
}  // namespace clamor
