#include "services/worker/token_stream.h"

#include <memory>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "services/rpc_error.h"
#include "tests/services/worker/fake_retrieval.h"

namespace clamor {
namespace {

using Response = v1::WorkerServiceStreamGenerateResponse;

// Hands each stream to the test, which plays the engine.
class StreamHost final : public v1::WorkerService::CallbackService {
 public:
  explicit StreamHost(const TokenStreamOptions& options) : options_(options) {
    grpc::ServerBuilder builder;
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    stub_ = v1::WorkerService::NewStub(server_->InProcessChannel({}));
  }
  ~StreamHost() override { server_->Shutdown(std::chrono::system_clock::now()); }

  grpc::ServerWriteReactor<Response>* StreamGenerate(grpc::CallbackServerContext* context,
                                                     const v1::WorkerServiceStreamGenerateRequest*) override {
    v1::Started started;
    started.set_request_id("r");
    started.set_prompt_tokens(5);
    auto* stream =
        new TokenStream(context, started, options_, [this](const Finished&, std::vector<int32_t> ids) {
          absl::MutexLock lock(&mu_);
          ended_ = true;
          ids_ = std::move(ids);
        });
    if (!refusal_.ok()) {
      stream->OnRefused(refusal_);
      return stream;
    }
    absl::MutexLock lock(&mu_);
    stream_ = stream;
    if (accept_) Accept(stream);
    return stream;
  }

  void Accept(TokenStream* stream) {
    stream->OnAccepted([this](FinishReason reason) {
      cancelled_with_ = static_cast<int>(reason);
      cancelled_.Notify();
    });
  }
  // Once the call has arrived.
  TokenStream* stream() {
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(
        +[](TokenStream** stream) { return *stream != nullptr; }, &stream_));
    return stream_;
  }
  std::vector<int32_t> ids() {
    absl::MutexLock lock(&mu_);
    return ids_;
  }

  v1::WorkerService::Stub& stub() { return *stub_; }
  absl::Status refusal_;
  bool accept_ = true;
  absl::Notification cancelled_;
  std::atomic<int> cancelled_with_ = -1;
  std::atomic<bool> ended_ = false;

 private:
  const TokenStreamOptions options_;
  absl::Mutex mu_;
  TokenStream* stream_ ABSL_GUARDED_BY(mu_) = nullptr;
  std::vector<int32_t> ids_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::WorkerService::Stub> stub_;
};

Delta MakeDelta(int64_t first, std::vector<int32_t> ids, std::string text) {
  Delta delta;
  delta.first_token_index = first;
  delta.token_ids = std::move(ids);
  delta.text = std::move(text);
  delta.sources.assign(delta.token_ids.size(), Source::kContext);
  delta.text_bytes.assign(delta.token_ids.size(), 1);
  return delta;
}

Finished MakeFinished(FinishReason reason) {
  Finished finished;
  finished.reason = reason;
  finished.matched_stop = "!";
  finished.usage = {.prompt_tokens = 5, .completion_tokens = 3};
  finished.stats.forwards = 2;
  finished.stats.accepted_by_source[static_cast<size_t>(Source::kStore)] = 7;
  return finished;
}

std::string ReasonIn(const grpc::Status& status) { return std::string(ReasonOf(FromGrpc(status))); }

TEST(TokenStreamTest, SendsStartedDeltasAndOneFinished) {
  StreamHost host({});
  grpc::ClientContext context;
  auto reader = host.stub().StreamGenerate(&context, {});
  TokenStream* stream = host.stream();
  stream->OnStarted(0);
  stream->OnDelta(MakeDelta(0, {11, 12}, "ab"));
  Response response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.started().request_id(), "r");
  EXPECT_EQ(response.started().prompt_tokens(), 5u);
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.delta().first_token_index(), 0u);
  EXPECT_THAT(response.delta().token_ids(), testing::ElementsAre(11, 12));
  EXPECT_THAT(response.delta().sources(),
              testing::ElementsAre(v1::DRAFT_SOURCE_CONTEXT, v1::DRAFT_SOURCE_CONTEXT));
  EXPECT_EQ(response.delta().text(), "ab");
  EXPECT_THAT(response.delta().text_bytes(), testing::ElementsAre(1, 1));
  EXPECT_EQ(response.delta().logprobs_size(), 0);
  Delta likely = MakeDelta(2, {13}, "c");
  likely.logprobs = {{.logprob = -0.5f, .top = {{7, -0.25f}, {13, -0.5f}}}};
  stream->OnDelta(std::move(likely));
  stream->OnFinished(MakeFinished(FinishReason::kLength));
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.delta().first_token_index(), 2u);
  ASSERT_EQ(response.delta().logprobs_size(), 1);
  EXPECT_EQ(response.delta().logprobs(0).logprob(), -0.5f);
  ASSERT_EQ(response.delta().logprobs(0).top_size(), 2);
  EXPECT_EQ(response.delta().logprobs(0).top(0).token_id(), 7u);
  EXPECT_EQ(response.delta().logprobs(0).top(0).logprob(), -0.25f);
  EXPECT_EQ(response.delta().logprobs(0).top(1).token_id(), 13u);
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.finished().reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(response.finished().matched_stop(), "!");
  EXPECT_EQ(response.finished().usage().completion_tokens(), 3u);
  EXPECT_EQ(response.finished().speculation().accepted().store(), 7u);
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_THAT(host.ids(), testing::ElementsAre(11, 12, 13));
}

TEST(TokenStreamTest, ShowsTheTreesOfATracedAnswerAsFarAsTheReaderKeepsUp) {
  StreamHost host({});
  grpc::ClientContext context;
  auto reader = host.stub().StreamGenerate(&context, {});
  TokenStream* stream = host.stream();
  stream->OnStarted(0);
  for (int i = 0; i < 500; ++i) {
    Delta delta = MakeDelta(2 * i, {i, 7}, "x");
    DraftTree tree;
    tree.Reset(6);
    tree.Add(99, 0, Source::kJacobi);
    tree.Add(i, 0, Source::kContext);
    tree.Add(5, 2, Source::kStore);
    delta.tree = tree.nodes;
    delta.accepted = {2};
    stream->OnDelta(delta);
  }
  stream->OnFinished(MakeFinished(FinishReason::kStop));
  Response response;
  uint64_t tokens = 0;
  int trees = 0;
  while (reader->Read(&response)) {
    EXPECT_LE(response.delta().trees_size(), 64);
    for (int i = 0; i < response.delta().trees_size(); ++i) {
      const v1::TracedTree& tree = response.delta().trees(i);
      EXPECT_EQ(tree.first_token_index(), tokens + 2 * static_cast<uint64_t>(i))
          << "the first ones, in order";
      const auto id = static_cast<uint32_t>(tree.first_token_index() / 2);
      EXPECT_THAT(tree.token_ids(), testing::ElementsAre(99, id, 5));
      EXPECT_THAT(tree.parents(), testing::ElementsAre(0, 0, 2));
      EXPECT_THAT(tree.sources(), testing::ElementsAre(v1::DRAFT_SOURCE_JACOBI, v1::DRAFT_SOURCE_CONTEXT,
                                                       v1::DRAFT_SOURCE_STORE));
      EXPECT_THAT(tree.accepted(), testing::ElementsAre(1));
      ++trees;
    }
    tokens += static_cast<uint64_t>(response.delta().token_ids_size());
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(tokens, 1000u);
  EXPECT_GE(trees, 64);
}

TEST(TokenStreamTest, TokensThatComeWhileAWriteIsInFlightShareAMessage) {
  StreamHost host({});
  grpc::ClientContext context;
  auto reader = host.stub().StreamGenerate(&context, {});
  TokenStream* stream = host.stream();
  stream->OnStarted(0);
  std::string text;
  for (int i = 0; i < 500; ++i) {
    stream->OnDelta(MakeDelta(i, {i}, "x"));
    text += "x";
  }
  stream->OnFinished(MakeFinished(FinishReason::kStop));
  Response response;
  std::string received;
  std::vector<uint32_t> ids;
  int messages = 0;
  while (reader->Read(&response)) {
    if (!response.has_delta()) continue;
    ++messages;
    EXPECT_EQ(response.delta().first_token_index(), ids.size()) << "without gaps";
    ids.insert(ids.end(), response.delta().token_ids().begin(), response.delta().token_ids().end());
    received += response.delta().text();
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(received, text);
  ASSERT_EQ(ids.size(), 500u);
  for (uint32_t i = 0; i < 500; ++i) EXPECT_EQ(ids[i], i);
  EXPECT_LT(messages, 100) << "an in-process write ends when the reader reads";
}

TEST(TokenStreamTest, SendsNothingBeforeAdmission) {
  StreamHost host({});
  grpc::ClientContext context;
  auto reader = host.stub().StreamGenerate(&context, {});
  TokenStream* stream = host.stream();
  std::atomic<bool> headers = false;
  std::thread waiter([&] {
    reader->WaitForInitialMetadata();
    headers = true;
  });
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_FALSE(headers);
  stream->OnStarted(0);
  waiter.join();
  stream->OnFinished(MakeFinished(FinishReason::kStop));
  Response response;
  while (reader->Read(&response)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
}

TEST(TokenStreamTest, ARefusalIsAStatusAlone) {
  StreamHost host({});
  host.refusal_ = Refusal("QUEUE_FULL", "256 requests wait, limit 256");
  grpc::ClientContext context;
  auto reader = host.stub().StreamGenerate(&context, {});
  Response response;
  EXPECT_FALSE(reader->Read(&response));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(ReasonIn(status), "QUEUE_FULL");
}

TEST(TokenStreamTest, AClientThatCancelsEndsTheRequest) {
  for (const bool before_acceptance : {false, true}) {
    StreamHost host({});
    host.accept_ = !before_acceptance;
    grpc::ClientContext context;
    auto reader = host.stub().StreamGenerate(&context, {});
    TokenStream* stream = host.stream();
    if (!before_acceptance) stream->OnStarted(0);
    context.TryCancel();
    if (before_acceptance) {
      absl::SleepFor(absl::Milliseconds(50));
      host.Accept(stream);
    }
    ASSERT_TRUE(host.cancelled_.WaitForNotificationWithTimeout(absl::Seconds(10)));
    EXPECT_EQ(host.cancelled_with_, static_cast<int>(FinishReason::kCancelled));
    stream->OnFinished(MakeFinished(FinishReason::kCancelled));
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
}

TEST(TokenStreamTest, ASlowReaderIsCutOffAndTold) {
  StreamHost host({.max_unread_tokens = 100});
  grpc::ClientContext context;
  auto reader = host.stub().StreamGenerate(&context, {});
  TokenStream* stream = host.stream();
  stream->OnStarted(0);
  for (int i = 0; i < 200; ++i) stream->OnDelta(MakeDelta(i, {i}, "x"));
  ASSERT_TRUE(host.cancelled_.WaitForNotificationWithTimeout(absl::Seconds(10)));
  EXPECT_EQ(host.cancelled_with_, static_cast<int>(FinishReason::kSlowConsumer));
  stream->OnFinished(MakeFinished(FinishReason::kSlowConsumer));
  Response response;
  while (reader->Read(&response)) EXPECT_TRUE(response.has_started()) << "nothing of the rest";
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(ReasonIn(status), "SLOW_CONSUMER");
}

TEST(TokenStreamTest, TextCountsAgainstASlowReaderToo) {
  StreamHost host({.max_unread_bytes = 1000});
  grpc::ClientContext context;
  auto reader = host.stub().StreamGenerate(&context, {});
  TokenStream* stream = host.stream();
  stream->OnStarted(0);
  stream->OnDelta(MakeDelta(0, {1}, "x"));
  stream->OnDelta(MakeDelta(1, {1}, std::string(2000, 'x')));
  ASSERT_TRUE(host.cancelled_.WaitForNotificationWithTimeout(absl::Seconds(10)));
  stream->OnFinished(MakeFinished(FinishReason::kSlowConsumer));
  Response response;
  while (reader->Read(&response)) {
  }
  EXPECT_EQ(ReasonIn(reader->Finish()), "SLOW_CONSUMER");
}

TEST(TokenStreamTest, AReaderThatNeverReadsIsResetInTheEnd) {
  StreamHost host({.max_unread_tokens = 10, .farewell = absl::Milliseconds(50)});
  grpc::ClientContext context;
  auto reader = host.stub().StreamGenerate(&context, {});
  TokenStream* stream = host.stream();
  stream->OnStarted(0);
  for (int i = 0; i < 20; ++i) stream->OnDelta(MakeDelta(i, {i}, "x"));
  stream->OnFinished(MakeFinished(FinishReason::kSlowConsumer));
  absl::SleepFor(absl::Milliseconds(300));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED) << "without having read anything";
}

TEST(TokenStreamTest, EarlyEndsHaveTheirReasons) {
  const struct {
    FinishReason reason;
    grpc::StatusCode code;
    const char* name;
  } cases[] = {{FinishReason::kDeadline, grpc::StatusCode::DEADLINE_EXCEEDED, "DEADLINE"},
               {FinishReason::kTenantDeleted, grpc::StatusCode::CANCELLED, "TENANT_DELETED"},
               {FinishReason::kCancelled, grpc::StatusCode::UNAVAILABLE, "DRAINING"}};
  for (const auto& c : cases) {
    StreamHost host({});
    grpc::ClientContext context;
    auto reader = host.stub().StreamGenerate(&context, {});
    TokenStream* stream = host.stream();
    stream->OnFinished(MakeFinished(c.reason));
    Response response;
    EXPECT_FALSE(reader->Read(&response));
    const grpc::Status status = reader->Finish();
    EXPECT_EQ(status.error_code(), c.code);
    EXPECT_EQ(ReasonIn(status), c.name);
  }
}

}  // namespace
}  // namespace clamor
