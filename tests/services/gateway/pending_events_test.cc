#include "services/gateway/pending_events.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace clamor {
namespace {

v1::Delta MakeDelta(uint64_t index, const std::vector<uint32_t>& ids, const std::string& text) {
  v1::Delta delta;
  delta.set_first_token_index(index);
  delta.mutable_token_ids()->Add(ids.begin(), ids.end());
  for (const uint32_t id : ids) {
    delta.add_sources(static_cast<v1::DraftSource>(id % 7));
    delta.add_logprobs()->set_logprob(-static_cast<float>(id));
    delta.add_text_bytes(id % 5);
  }
  delta.set_text(text);
  delta.add_trees()->set_first_token_index(index);
  return delta;
}

TEST(PendingEventsTest, OrderIsStartedDeltaFinished) {
  PendingEvents events;
  v1::StreamGenerateResponse response;
  EXPECT_FALSE(events.Pop(&response));
  v1::Started started;
  started.set_seed(7);
  v1::Finished finished;
  finished.set_matched_stop("!");
  events.Add(started);
  events.Add(MakeDelta(0, {1}, "a"));
  events.Add(finished);
  ASSERT_TRUE(events.Pop(&response));
  EXPECT_EQ(response.started().seed(), 7u);
  ASSERT_TRUE(events.Pop(&response));
  EXPECT_EQ(response.delta().text(), "a");
  ASSERT_TRUE(events.Pop(&response));
  EXPECT_EQ(response.finished().matched_stop(), "!");
  EXPECT_FALSE(events.Pop(&response));
}

// Whenever the client reads, what it has got is a prefix of what was added, without gaps.
TEST(PendingEventsTest, MergingLosesNothing) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    PendingEvents events;
    std::vector<uint32_t> added, got, got_sources, got_bytes;
    std::vector<float> got_logprobs;
    std::string added_text, got_text;
    int added_trees = 0, got_trees = 0;
    for (int step = 0; step < 50; ++step) {
      if (random() % 3 != 0) {
        std::vector<uint32_t> ids(random() % 4);
        for (uint32_t& id : ids) id = random() % 1000;
        const std::string text(random() % 3, static_cast<char>('a' + step % 26));
        events.Add(MakeDelta(added.size(), ids, text));
        ++added_trees;
        added.insert(added.end(), ids.begin(), ids.end());
        added_text += text;
      }
      v1::StreamChatResponse response;
      if (random() % 2 == 0 && events.Pop(&response)) {
        ASSERT_EQ(response.delta().first_token_index(), got.size());
        got.insert(got.end(), response.delta().token_ids().begin(), response.delta().token_ids().end());
        got_sources.insert(got_sources.end(), response.delta().sources().begin(),
                           response.delta().sources().end());
        got_bytes.insert(got_bytes.end(), response.delta().text_bytes().begin(),
                         response.delta().text_bytes().end());
        for (const auto& token : response.delta().logprobs()) got_logprobs.push_back(token.logprob());
        got_text += response.delta().text();
        got_trees += response.delta().trees_size();
        ASSERT_EQ(got_trees, added_trees);
        ASSERT_EQ(events.bytes(), 0u);
        ASSERT_EQ(got, added);
        ASSERT_EQ(got_text, added_text);
        ASSERT_EQ(got_sources.size(), got.size());
        ASSERT_EQ(got_logprobs.size(), got.size());
        ASSERT_EQ(got_bytes.size(), got.size());
        for (size_t i = 0; i < got.size(); ++i) {
          ASSERT_EQ(got_sources[i], got[i] % 7);
          ASSERT_EQ(got_bytes[i], got[i] % 5);
          ASSERT_EQ(got_logprobs[i], -static_cast<float>(got[i]));
        }
      }
    }
  }
}

// An answer that always has more to say does not keep the others from the wire.
TEST(PendingAnswersTest, TakeTurns) {
  PendingAnswers answers(3);
  const auto add = [&](uint32_t choice) {
    v1::Delta delta = MakeDelta(0, {choice}, "x");
    delta.set_choice(choice);
    answers.Add(delta);
  };
  const auto pop = [&] {
    v1::StreamGenerateResponse response;
    return answers.Pop(&response) ? static_cast<int>(response.delta().choice()) : -1;
  };
  EXPECT_EQ(pop(), -1);
  std::vector<int> order;
  add(1);
  add(2);
  for (int i = 0; i < 6; ++i) {
    add(0);
    order.push_back(pop());
  }
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 0, 0, 0}));
  EXPECT_EQ(pop(), -1);
  add(2);
  EXPECT_GT(answers.bytes(), 0u);
  answers.Clear();
  EXPECT_EQ(answers.bytes(), 0u);
  EXPECT_EQ(pop(), -1);
}

}  // namespace
}  // namespace clamor
