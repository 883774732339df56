#include "services/worker/retrieval_drafter.h"

#include <array>
#include <atomic>
#include <optional>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/services/worker/fake_retrieval.h"

namespace clamor {
namespace {

constexpr int32_t kVocab = 1000;

struct Outcomes {
  std::array<std::atomic<int>, kLookupOutcomes> counts{};
  int of(LookupOutcome outcome) const { return counts[static_cast<size_t>(outcome)]; }
  RetrievalDrafter::Observer Observer() {
    return [this](LookupOutcome outcome, double) { ++counts[static_cast<size_t>(outcome)]; };
  }
};

RetrievalDrafterOptions Options() {
  return {.tokenizer_fingerprint = "abc",
          .vocab_size = kVocab,
          .timeout = absl::Seconds(5),
          .breaker = {.failures_to_open = 2,
                      .min_backoff = absl::Milliseconds(50),
                      .max_backoff = absl::Milliseconds(200)}};
}

void Ask(RetrievalDrafter& drafter, uint64_t sequence, std::vector<int32_t> context,
         const std::string& tenant = "t") {
  const auto position = static_cast<int64_t>(context.size());
  drafter.Ask(sequence, tenant, context, position);
}

std::optional<ContinuationSource::Answer> WaitForAnswer(RetrievalDrafter& drafter, uint64_t sequence) {
  std::optional<ContinuationSource::Answer> answer;
  Eventually([&] { return (answer = drafter.Take(sequence)).has_value(); });
  return answer;
}

TEST(RetrievalDrafterTest, AnswersBecomeTries) {
  FakeRetrieval server;
  RetrievalDrafter drafter(MakeRetrievalChannel(server.address()), Options(), nullptr);
  Ask(drafter, 7, {1, 2, 3});
  const auto answer = WaitForAnswer(drafter, 7);
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->position, 3);
  EXPECT_EQ(answer->trie.match_length, 1);
  ASSERT_EQ(answer->trie.nodes.size(), 2u);
  EXPECT_EQ(answer->trie.nodes[0].token, 4);
  EXPECT_EQ(answer->trie.nodes[0].parent, -1);
  EXPECT_EQ(answer->trie.nodes[1].token, 5);
  EXPECT_EQ(answer->trie.nodes[1].parent, 0);
  EXPECT_FALSE(drafter.Take(7).has_value()) << "an answer is taken once";
  const v1::LookupQuery query = server.lookups().at(0).queries(0);
  EXPECT_EQ(query.namespace_().tenant(), "t");
  EXPECT_EQ(query.namespace_().tokenizer_fingerprint(), "abc");
  EXPECT_THAT(query.context(), testing::ElementsAre(1, 2, 3));
}

TEST(RetrievalDrafterTest, QuestionsOfOneStepTravelTogether) {
  FakeRetrieval server;
  RetrievalDrafterOptions options = Options();
  options.gather = absl::Milliseconds(200);
  RetrievalDrafter drafter(MakeRetrievalChannel(server.address()), options, nullptr);
  for (uint64_t sequence = 1; sequence <= 20; ++sequence)
    Ask(drafter, sequence, {static_cast<int32_t>(sequence)});
  for (uint64_t sequence = 1; sequence <= 20; ++sequence) {
    const auto answer = WaitForAnswer(drafter, sequence);
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->trie.nodes[0].token, static_cast<int32_t>(sequence) + 1) << "each gets its own";
  }
  EXPECT_EQ(server.lookups().size(), 1u);
}

TEST(RetrievalDrafterTest, OnlyTheNewestQuestionOfASequenceIsSent) {
  FakeRetrieval server;
  RetrievalDrafterOptions options = Options();
  options.gather = absl::Milliseconds(200);
  options.max_match = 2;
  RetrievalDrafter drafter(MakeRetrievalChannel(server.address()), options, nullptr);
  Ask(drafter, 1, {10});
  Ask(drafter, 1, {10, 20, 30});
  const auto answer = WaitForAnswer(drafter, 1);
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->position, 3);
  ASSERT_EQ(server.lookups().size(), 1u);
  EXPECT_THAT(server.lookups()[0].queries(0).context(), testing::ElementsAre(20, 30))
      << "at most max_match tokens";
}

TEST(RetrievalDrafterTest, AnswersOfForgottenSequencesAreLostEvenIfTheNumberComesAgain) {
  absl::Notification go_on;
  std::atomic<int> calls = 0;
  FakeRetrieval server;
  server.SetLookup([&](const v1::LookupRequest& request, v1::LookupResponse* response) {
    if (++calls == 1) go_on.WaitForNotification();
    return FakeRetrieval::Successors(request, response);
  });
  RetrievalDrafter drafter(MakeRetrievalChannel(server.address()), Options(), nullptr);
  Ask(drafter, 1, {10});
  ASSERT_TRUE(Eventually([&] { return calls == 1; }));
  drafter.Forget(1);
  Ask(drafter, 1, {50});
  const auto answer = WaitForAnswer(drafter, 1);
  go_on.Notify();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->trie.nodes[0].token, 51);
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_FALSE(drafter.Take(1).has_value());
}

TEST(RetrievalDrafterTest, LiesAreRefused) {
  struct Lie {
    const char* what;
    std::function<void(v1::ContinuationTrie&)> tell;
  };
  const Lie lies[] = {
      {"a parent after its child", [](auto& trie) { trie.set_parents(0, 1); }},
      {"a parent far away", [](auto& trie) { trie.set_parents(1, 4000000000u); }},
      {"a count of zero", [](auto& trie) { trie.set_counts(1, 0); }},
      {"an id outside the vocabulary", [](auto& trie) { trie.set_tokens(0, kVocab); }},
      {"an id that is no int32", [](auto& trie) { trie.set_tokens(0, 4294967295u); }},
      {"fewer parents than tokens", [](auto& trie) { trie.mutable_parents()->RemoveLast(); }},
      {"more counts than tokens", [](auto& trie) { trie.add_counts(1); }},
      {"totals of some nodes", [](auto& trie) { trie.add_totals(1), trie.add_match_lengths(1); }},
      {"totals alone",
       [](auto& trie) {
         for (int i = 0; i < trie.tokens_size(); ++i) trie.add_totals(1000);
       }},
      {"a total below its count",
       [](auto& trie) {
         for (int i = 0; i < trie.tokens_size(); ++i) trie.add_totals(0), trie.add_match_lengths(1);
       }},
      {"a match of impossible length",
       [](auto& trie) {
         for (int i = 0; i < trie.tokens_size(); ++i) trie.add_totals(1000), trie.add_match_lengths(1u << 31);
       }},
      {"too many nodes",
       [](auto& trie) {
         for (int i = 0; i < 255; ++i) {
           trie.add_tokens(1);
           trie.add_parents(0);
           trie.add_counts(1);
         }
       }},
      {"an absurd match", [](auto& trie) { trie.set_match_length(4000000000u); }},
  };
  FakeRetrieval server;
  for (const Lie& lie : lies) {
    SCOPED_TRACE(lie.what);
    Outcomes outcomes;
    RetrievalDrafter drafter(MakeRetrievalChannel(server.address()), Options(), outcomes.Observer());
    server.SetLookup([&](const v1::LookupRequest& request, v1::LookupResponse* response) {
      FakeRetrieval::Successors(request, response);
      lie.tell(*response->mutable_tries(0));
      return grpc::Status::OK;
    });
    Ask(drafter, 1, {10});
    ASSERT_TRUE(Eventually([&] { return outcomes.of(LookupOutcome::kInvalid) == 1; }));
    EXPECT_FALSE(drafter.Take(1).has_value());
  }
  for (const int tries : {0, 2}) {  // where one was asked for
    Outcomes outcomes;
    RetrievalDrafter drafter(MakeRetrievalChannel(server.address()), Options(), outcomes.Observer());
    server.SetLookup([&](const v1::LookupRequest&, v1::LookupResponse* response) {
      for (int i = 0; i < tries; ++i) response->add_tries();
      return grpc::Status::OK;
    });
    Ask(drafter, 1, {10});
    ASSERT_TRUE(Eventually([&] { return outcomes.of(LookupOutcome::kInvalid) == 1; }));
    EXPECT_FALSE(drafter.Take(1).has_value());
  }
}

TEST(RetrievalDrafterTest, ASlowServiceTimesOutAndNeverHoldsUpTheEngine) {
  absl::Notification go_on;
  FakeRetrieval server;
  server.SetLookup([&](const v1::LookupRequest& request, v1::LookupResponse* response) {
    go_on.WaitForNotificationWithTimeout(absl::Seconds(5));
    return FakeRetrieval::Successors(request, response);
  });
  Outcomes outcomes;
  RetrievalDrafterOptions options = Options();
  options.timeout = absl::Milliseconds(20);
  RetrievalDrafter drafter(MakeRetrievalChannel(server.address()), options, outcomes.Observer());
  absl::Duration longest = absl::ZeroDuration();
  for (int step = 0; step < 200; ++step) {
    const absl::Time start = absl::Now();
    Ask(drafter, 1, {step});
    drafter.Take(1);
    longest = std::max(longest, absl::Now() - start);
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_LT(longest, absl::Milliseconds(500)) << "the server stalls for seconds";
  EXPECT_GE(outcomes.of(LookupOutcome::kTimeout), 2);
  EXPECT_GT(outcomes.of(LookupOutcome::kBreakerOpen), 0);
  go_on.Notify();
}

TEST(RetrievalDrafterTest, WhoAwaitsGetsTheAnswerOrHisTime) {
  absl::Notification go_on;
  FakeRetrieval server;
  RetrievalDrafterOptions options = Options();
  options.gather = absl::Seconds(20);  // who awaits has asked all he will: there is nothing to gather
  RetrievalDrafter drafter(MakeRetrievalChannel(server.address()), options, nullptr);
  const absl::Time start = absl::Now();
  EXPECT_TRUE(drafter.Await(start + absl::Seconds(10))) << "nothing is asked";
  for (uint64_t sequence = 1; sequence <= 3; ++sequence)
    Ask(drafter, sequence, {static_cast<int32_t>(sequence)});
  EXPECT_TRUE(drafter.Await(start + absl::Seconds(10)));
  for (uint64_t sequence = 1; sequence <= 3; ++sequence) EXPECT_TRUE(drafter.Take(sequence).has_value());
  EXPECT_EQ(server.lookups().size(), 1u);

  server.SetLookup([&](const v1::LookupRequest& request, v1::LookupResponse* response) {
    go_on.WaitForNotificationWithTimeout(absl::Seconds(10));
    return FakeRetrieval::Successors(request, response);
  });
  Ask(drafter, 1, {5});
  EXPECT_FALSE(drafter.Await(absl::Now() + absl::Milliseconds(20)));
  EXPECT_FALSE(drafter.Take(1).has_value());
  EXPECT_LT(absl::Now() - start, absl::Seconds(8));
  go_on.Notify();
}

TEST(RetrievalDrafterTest, DraftsComeBackAfterARestart) {
  FakeRetrieval server;
  Outcomes outcomes;
  RetrievalDrafter drafter(MakeRetrievalChannel(server.address()), Options(), outcomes.Observer());
  Ask(drafter, 1, {10});
  ASSERT_TRUE(WaitForAnswer(drafter, 1).has_value());

  server.Stop();
  ASSERT_TRUE(Eventually([&] {
    Ask(drafter, 1, {11});
    return outcomes.of(LookupOutcome::kBreakerOpen) > 0;
  }));
  EXPECT_GE(outcomes.of(LookupOutcome::kError) + outcomes.of(LookupOutcome::kTimeout), 2);

  server.Start();
  ASSERT_TRUE(Eventually([&] {
    Ask(drafter, 1, {12});
    const auto answer = drafter.Take(1);
    return answer.has_value() && answer->trie.nodes[0].token == 13;
  }));
}

TEST(RetrievalDrafterTest, EndsWithCallsUnderWay) {
  absl::Notification go_on;
  std::atomic<int> calls = 0;
  FakeRetrieval server;
  server.SetLookup([&](const v1::LookupRequest&, v1::LookupResponse*) {
    ++calls;
    go_on.WaitForNotificationWithTimeout(absl::Seconds(20));
    return grpc::Status::OK;
  });
  const absl::Time start = absl::Now();
  {
    RetrievalDrafterOptions options = Options();
    options.timeout = absl::Seconds(20);
    RetrievalDrafter drafter(MakeRetrievalChannel(server.address()), options, nullptr);
    Ask(drafter, 1, {10});
    ASSERT_TRUE(Eventually([&] { return calls == 1; }));
  }
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
  go_on.Notify();
}

TEST(CircuitBreakerTest, OpensProbesBacksOffAndCloses) {
  const CircuitBreakerOptions options{
      .failures_to_open = 3, .min_backoff = absl::Milliseconds(250), .max_backoff = absl::Seconds(1)};
  CircuitBreaker breaker(options);
  absl::Time now = absl::UnixEpoch();
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(breaker.Allow(now)) << i;
    breaker.OnStart();
    breaker.OnFailure(now);
  }
  EXPECT_TRUE(breaker.open());
  for (const int64_t backoff : {250, 500, 1000, 1000}) {
    EXPECT_FALSE(breaker.Allow(now + absl::Milliseconds(backoff - 1)));
    now += absl::Milliseconds(backoff);
    ASSERT_TRUE(breaker.Allow(now)) << backoff;
    breaker.OnStart();
    EXPECT_FALSE(breaker.Allow(now)) << "one probe at a time";
    breaker.OnFailure(now);
  }
  now += absl::Seconds(1);
  breaker.OnStart();
  breaker.OnSuccess();
  EXPECT_FALSE(breaker.open());
  EXPECT_TRUE(breaker.Allow(now));
  breaker.OnFailure(now);
  EXPECT_TRUE(breaker.Allow(now)) << "one failure does not open it again";
}

TEST(CircuitBreakerTest, SuccessesInBetweenKeepItClosed) {
  CircuitBreaker breaker({.failures_to_open = 2});
  for (int i = 0; i < 10; ++i) {
    breaker.OnFailure(absl::UnixEpoch());
    breaker.OnSuccess();
  }
  EXPECT_FALSE(breaker.open());
}

}  // namespace
}  // namespace clamor
