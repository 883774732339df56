#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"
#include "services/worker/engine.h"
#include "services/worker/knowledge_pool.h"
#include "tests/services/worker/engine_fixture.h"

namespace clamor {
namespace {

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

// Keeps what a traced answer shows.
class TracingSink : public RecordingSink {
 public:
  void OnDelta(const Delta& delta) override {
    RecordingSink::OnDelta(delta);
    deltas_seen.push_back(delta);
  }
  std::vector<Delta> deltas_seen;
};

TEST_F(EngineTest, ATraceShowsTheTreesThatTheAnswerCameFrom) {
  for (const SpeculationOptions& mode : kModes) {
    Request request = Golden(1);
    request.speculation = mode;
    const RecordingSink untraced = Answer(request, {.default_nodes = 0});
    request.trace = true;
    TracingSink sink;
    const auto engine = MakeEngine(model_, {.default_nodes = 0});
    Submit(*engine, request, sink);
    StepUntilIdle(*engine);
    EXPECT_EQ(sink.ids, untraced.ids);
    int64_t drafted = 0;
    int32_t root = request.prompt_ids.back();
    for (const Delta& delta : sink.deltas_seen) {
      ASSERT_FALSE(delta.tree.empty());
      EXPECT_TRUE(DraftTree{delta.tree}.CheckIntegrity().ok());
      EXPECT_EQ(delta.tree[0].token, root);
      ASSERT_LE(delta.accepted.size(), delta.token_ids.size());
      ASSERT_GE(delta.accepted.size() + 1, delta.token_ids.size()) << "one token at most is the model's own";
      for (size_t i = 0; i < delta.accepted.size(); ++i) {
        const DraftNode& node = delta.tree[delta.accepted[i]];
        EXPECT_EQ(node.token, delta.token_ids[i]);
        EXPECT_EQ(node.source, delta.sources[i]);
        EXPECT_EQ(node.parent, i == 0 ? 0 : delta.accepted[i - 1]);
      }
      drafted += static_cast<int64_t>(delta.tree.size()) - 1;
      root = delta.token_ids.back();
    }
    EXPECT_EQ(drafted, sink.finished->stats.draft_nodes);
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

// A store is waited for in each step that asked, and less and less often if that is in vain.
TEST_F(EngineTest, PatienceWithAStoreRunsOut) {
  struct Awaited : ScriptedSource {
    explicit Awaited(bool answers)
        : ScriptedSource([](std::span<const int32_t>, int64_t) { return std::nullopt; }), answers(answers) {}
    bool Await(absl::Time deadline) override {
      EXPECT_LT(deadline, absl::Now() + absl::Seconds(1));
      ++awaits;
      return answers;
    }
    bool answers;
    int awaits = 0;
  };
  Request request = Golden(3);
  request.speculation.nodes = 1;
  Awaited punctual(true), silent(false);
  const RecordingSink sink = Answer(request, {.default_nodes = 0}, &punctual);
  EXPECT_EQ(Answer(request, {.default_nodes = 0}, &silent).ids, sink.ids);
  const int64_t steps = sink.finished->stats.forwards;
  ASSERT_GT(steps, 20);
  EXPECT_GE(punctual.awaits, steps - 1);
  EXPECT_GE(silent.awaits, 3);
  EXPECT_LE(silent.awaits, 7) << "of " << steps;
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
