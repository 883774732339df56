#include "services/worker/corpus_writer.h"

#include <array>
#include <atomic>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/services/worker/fake_retrieval.h"

namespace clamor {
namespace {

struct Outcomes {
  std::array<std::atomic<int>, kCorpusOutcomes> counts{};
  int of(CorpusOutcome outcome) const { return counts[static_cast<size_t>(outcome)]; }
  CorpusWriter::Observer Observer() {
    return [this](CorpusOutcome outcome) { ++counts[static_cast<size_t>(outcome)]; };
  }
};

CorpusWriterOptions Options() {
  return {.tokenizer_fingerprint = "abc",
          .min_backoff = absl::Milliseconds(20),
          .max_backoff = absl::Milliseconds(100)};
}

std::shared_ptr<grpc::Channel> Channel(const FakeRetrieval& server) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 50);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 100);
  return grpc::CreateCustomChannel(server.address(), grpc::InsecureChannelCredentials(), arguments);
}

absl::Time Soon() { return absl::Now() + absl::Seconds(10); }

TEST(CorpusWriterTest, StoresWhatIsAddedOnceEach) {
  FakeRetrieval server;
  Outcomes outcomes;
  CorpusWriter writer(Channel(server), Options(), outcomes.Observer());
  for (int32_t i = 0; i < 100; ++i) writer.Add(i % 2 == 0 ? "even" : "odd", {i, i + 1});
  writer.Add("odd", {1, 2});  // again
  writer.Add("odd", {});      // nothing to store
  ASSERT_TRUE(writer.Flush(Soon()));
  const auto documents = server.documents();
  EXPECT_EQ(documents.size(), 100u);
  EXPECT_THAT(documents.at("odd/" + DocumentId(std::vector<int32_t>{1, 2})), testing::ElementsAre(1, 2));
  EXPECT_EQ(outcomes.of(CorpusOutcome::kStored), 100);
  EXPECT_EQ(outcomes.of(CorpusOutcome::kUnchanged), 1);
  EXPECT_LT(server.appends(), 100) << "batched";
}

TEST(CorpusWriterTest, KeepsTryingWhileTheServiceIsDown) {
  FakeRetrieval server;
  server.Stop();
  Outcomes outcomes;
  CorpusWriter writer(Channel(server), Options(), outcomes.Observer());
  writer.Add("t", {1, 2, 3});
  EXPECT_FALSE(writer.Flush(absl::Now() + absl::Milliseconds(200)));
  server.Start();
  ASSERT_TRUE(writer.Flush(Soon()));
  EXPECT_EQ(server.documents().size(), 1u);
  EXPECT_EQ(outcomes.of(CorpusOutcome::kStored), 1);
}

TEST(CorpusWriterTest, DropsAndCountsWhatDoesNotFit) {
  FakeRetrieval server;
  server.Stop();
  Outcomes outcomes;
  CorpusWriterOptions options = Options();
  options.max_queued_documents = 10;
  options.max_queued_tokens = 100;
  {
    CorpusWriter writer(Channel(server), options, outcomes.Observer());
    writer.Add("t", std::vector<int32_t>(101, 7));
    EXPECT_EQ(outcomes.of(CorpusOutcome::kDropped), 1) << "too long for the queue";
    for (int32_t i = 0; i < 50; ++i) writer.Add("t", {i});
    EXPECT_GE(outcomes.of(CorpusOutcome::kDropped), 51 - 10 - options.batch_documents);
  }
  EXPECT_EQ(outcomes.of(CorpusOutcome::kDropped), 51) << "the rest when it ends";
}

TEST(CorpusWriterTest, ARefusedDocumentDoesNotTakeOthersWithIt) {
  FakeRetrieval server;
  server.SetAppend([](const v1::AppendRequest& request, v1::AppendResponse*) {
    for (const v1::Document& document : request.documents()) {
      if (document.namespace_().tenant() == "full") {
        return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "over its quota");
      }
    }
    return grpc::Status::OK;
  });
  Outcomes outcomes;
  CorpusWriter writer(Channel(server), Options(), outcomes.Observer());
  for (int32_t i = 0; i < 20; ++i) writer.Add(i == 7 ? "full" : "t", {i});
  ASSERT_TRUE(writer.Flush(Soon()));
  EXPECT_EQ(server.documents().size(), 19u);
  EXPECT_EQ(outcomes.of(CorpusOutcome::kRefused), 1);
}

TEST(CorpusWriterTest, EndsWhileACallHangs) {
  absl::Notification go_on;
  FakeRetrieval server;
  server.SetAppend([&](const v1::AppendRequest&, v1::AppendResponse*) {
    go_on.WaitForNotificationWithTimeout(absl::Seconds(20));
    return grpc::Status::OK;
  });
  const absl::Time start = absl::Now();
  {
    CorpusWriterOptions options = Options();
    options.timeout = absl::Seconds(20);
    CorpusWriter writer(Channel(server), options, nullptr);
    writer.Add("t", {1});
    ASSERT_TRUE(Eventually([&] { return server.appends() == 1; }));
  }
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
  go_on.Notify();
}

TEST(CorpusWriterTest, ForgetsWhatATenantHasAdded) {
  absl::Notification go_on;
  FakeRetrieval server;
  server.SetAppend([&](const v1::AppendRequest&, v1::AppendResponse*) {
    go_on.WaitForNotificationWithTimeout(absl::Seconds(20));
    return grpc::Status::OK;
  });
  Outcomes outcomes;
  CorpusWriter writer(Channel(server), Options(), outcomes.Observer());
  bool idle = false;
  writer.Forget("a", [&] { idle = true; });  // nothing is on its way
  EXPECT_TRUE(idle);
  writer.Add("a", {1});
  ASSERT_TRUE(Eventually([&] { return server.appends() == 1; }));
  writer.Add("a", {2});
  writer.Add("b", {3});
  absl::Notification forgotten;
  writer.Forget("a", [&] {
    EXPECT_EQ(server.documents().size(), 1u);  // what was on its way has arrived: it can be deleted now
    forgotten.Notify();
  });
  EXPECT_EQ(outcomes.of(CorpusOutcome::kDropped), 1);
  EXPECT_FALSE(forgotten.HasBeenNotified());
  go_on.Notify();
  EXPECT_TRUE(forgotten.WaitForNotificationWithTimeout(absl::Seconds(10)));
  ASSERT_TRUE(writer.Flush(Soon()));
  EXPECT_EQ(server.documents().count("b/" + DocumentId(std::vector<int32_t>{3})), 1u);
  EXPECT_EQ(server.documents().count("a/" + DocumentId(std::vector<int32_t>{2})), 0u);
}

TEST(CorpusWriterTest, DocumentIdsFollowTheTokens) {
  const std::vector<int32_t> a = {1, 2, 3}, b = {1, 2, 4};
  EXPECT_EQ(DocumentId(a), DocumentId(std::vector<int32_t>{1, 2, 3}));
  EXPECT_NE(DocumentId(a), DocumentId(b));
  EXPECT_EQ(DocumentId(a).size(), 32u);
}

}  // namespace
}  // namespace clamor
