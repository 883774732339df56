#include "services/gateway/answer_journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace clamor {
namespace {

using ::testing::ElementsAre;

v1::WorkerServiceStreamGenerateRequest Request() {
  v1::WorkerServiceStreamGenerateRequest request;
  request.set_request_id("r");
  request.set_tenant("t");
  request.add_prompt_ids(1);
  request.mutable_options()->mutable_sampling()->set_seed(9);
  return request;
}

v1::Started Started(uint32_t max_tokens = 0) {
  v1::Started started;
  started.set_model_revision("a");
  started.set_cached_tokens(16);
  started.set_max_tokens(max_tokens);
  return started;
}

v1::Delta Delta(const std::vector<uint32_t>& ids, const std::string& text,
                const std::vector<v1::DraftSource>& sources) {
  v1::Delta delta;
  delta.mutable_token_ids()->Add(ids.begin(), ids.end());
  delta.set_text(text);
  for (const v1::DraftSource source : sources) delta.add_sources(source);
  return delta;
}

TEST(AnswerJournalTest, GoesOnWithAllThatCame) {
  AnswerJournal journal(Request());
  EXPECT_FALSE(journal.begun());
  journal.Add(Started());
  journal.Add(Delta({5, 6}, "ab", {v1::DRAFT_SOURCE_STORE, v1::DRAFT_SOURCE_UNSPECIFIED}));
  journal.Add(Delta({7}, "", {v1::DRAFT_SOURCE_UNSPECIFIED}));
  EXPECT_EQ(journal.request().DebugString(), Request().DebugString()) << "a call may use it";
  EXPECT_EQ(journal.tokens(), 3u);
  journal.GoOn();
  EXPECT_THAT(journal.request().emitted_ids(), ElementsAre(5, 6, 7));
  EXPECT_EQ(journal.start().text_bytes, 2u);
  EXPECT_EQ(journal.start().revision, "a");
  EXPECT_TRUE(journal.request().follows());
  journal.Add(Started());
  journal.Add(Delta({8}, "cd", {v1::DRAFT_SOURCE_UNSPECIFIED}));
  journal.GoOn();
  EXPECT_THAT(journal.request().emitted_ids(), ElementsAre(5, 6, 7, 8));
  EXPECT_EQ(journal.start().text_bytes, 4u);
  EXPECT_EQ(journal.tokens(), 4u);
}

TEST(AnswerJournalTest, WhatWasNotAdmittedIsAskedAsBefore) {
  AnswerJournal journal(Request());
  journal.GoOn();
  EXPECT_EQ(journal.request().DebugString(), Request().DebugString());
  EXPECT_EQ(journal.start().revision, "");
}

TEST(AnswerJournalTest, CountsOfAllWorkersAreAdded) {
  AnswerJournal journal(Request());
  v1::Finished finished;
  finished.mutable_usage()->set_completion_tokens(3);
  finished.mutable_usage()->set_cached_tokens(32);
  finished.mutable_speculation()->set_forwards(2);
  finished.mutable_speculation()->set_draft_nodes(10);
  finished.mutable_speculation()->mutable_accepted()->set_store(1);
  const std::string own = finished.DebugString();
  journal.Add(Started());
  journal.Complete(&finished);
  EXPECT_EQ(finished.DebugString(), own) << "the only worker knows it all";

  using enum v1::DraftSource;
  journal.Add(
      Delta({1, 2, 3, 4}, "",
            {DRAFT_SOURCE_STORE, DRAFT_SOURCE_STORE, DRAFT_SOURCE_CONTEXT, DRAFT_SOURCE_UNSPECIFIED}));
  journal.GoOn();
  journal.Add(Delta({5, 6, 7, 8, 9}, "",
                    {DRAFT_SOURCE_JACOBI, DRAFT_SOURCE_ADJACENCY, DRAFT_SOURCE_RECYCLED, DRAFT_SOURCE_NOISE,
                     DRAFT_SOURCE_UNSPECIFIED}));
  journal.GoOn();
  journal.Add(Delta({10}, "", {DRAFT_SOURCE_UNSPECIFIED}));  // counted by the last worker itself
  journal.Complete(&finished);
  EXPECT_EQ(finished.usage().completion_tokens(), 12u);
  EXPECT_EQ(finished.usage().cached_tokens(), 16u) << "as Started said";
  EXPECT_EQ(finished.speculation().forwards(), 4u);
  EXPECT_EQ(finished.speculation().draft_nodes(), 17u);
  const v1::AcceptedBySource& accepted = finished.speculation().accepted();
  EXPECT_EQ(accepted.store(), 3u);
  EXPECT_EQ(accepted.context(), 1u);
  EXPECT_EQ(accepted.jacobi(), 1u);
  EXPECT_EQ(accepted.adjacency(), 1u);
  EXPECT_EQ(accepted.recycled(), 1u);
  EXPECT_EQ(accepted.noise(), 1u);
}

// Workers have room for answers of different lengths: the first decides.
TEST(AnswerJournalTest, TheLengthThatNobodyAskedForIsKept) {
  v1::WorkerServiceStreamGenerateRequest request = Request();
  request.mutable_options()->set_min_tokens(200);
  AnswerJournal journal(request);
  journal.Add(Started(/*max_tokens=*/100));
  journal.GoOn();
  EXPECT_EQ(journal.request().options().max_tokens(), 100u);
  EXPECT_EQ(journal.request().options().min_tokens(), 100u) << "more would be refused";
  request.mutable_options()->set_max_tokens(300);
  AnswerJournal asked(request);
  asked.Add(Started(/*max_tokens=*/100));
  asked.GoOn();
  EXPECT_EQ(asked.request().options().max_tokens(), 300u);
}

}  // namespace
}  // namespace clamor
