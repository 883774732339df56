// What goes wrong: clients that leave or do not read, workers that refuse, talk nonsense, vanish and come
// back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "absl/synchronization/notification.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "tests/services/child_process.h"
#include "tests/services/gateway/gateway_fixture.h"

namespace clamor {
namespace {

using testing::ChildProcess;
using testing::Eventually;
using testing::FakeWorker;
using testing::kContext;

// Streams a token a millisecond, while the context has room, until the call is cancelled; then says so.
FakeWorker::Script EndlessUntilCancelled(std::atomic<bool>* cancelled) {
  return [cancelled](auto& context, const auto& request, auto& writer) {
    FakeWorker::WriteStarted(writer, request);
    for (uint64_t i = 0; !context.IsCancelled();) {
      if (i < kContext - 1) FakeWorker::WriteDelta(writer, i++, 1, "x");
      absl::SleepFor(absl::Milliseconds(1));
    }
    *cancelled = true;
    return grpc::Status::CANCELLED;
  };
}

// Nobody waits long for a worker that could go on: there is none.
const GatewayLimits kHasty = {.fleet = {.failover_wait = absl::Milliseconds(100)}};
// Less than it takes to miss a worker by keepalive.
constexpr absl::Duration kSoon = absl::Seconds(10);

class FailureTest : public testing::GatewayTest {};

TEST_F(FailureTest, ClientsCancellationReachesTheWorker) {
  StartWithWorker();
  std::atomic<bool> cancelled = false;
  worker_->SetScript(EndlessUntilCancelled(&cancelled));
  grpc::ClientContext context;
  auto reader = stub_->StreamGenerate(&context, IdsRequest({1}, 1));
  v1::StreamGenerateResponse response;
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(reader->Read(&response));
  context.TryCancel();
  EXPECT_TRUE(Eventually([&] { return cancelled.load(); }));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(FailureTest, CancellationBeforeTheStartReachesTheWorkerOfAUnaryCall) {
  StartWithWorker();
  absl::Notification entered, cancelled;
  worker_->SetScript([&](auto& context, const auto&, auto&) {
    entered.Notify();
    while (!context.IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
    cancelled.Notify();
    return grpc::Status::CANCELLED;
  });
  grpc::ClientContext context;
  grpc::Status status;
  std::thread caller([&] {
    v1::GenerateRequest request;
    request.mutable_token_ids()->add_ids(1);
    v1::GenerateResponse response;
    status = stub_->Generate(&context, request, &response);
  });
  entered.WaitForNotification();
  context.TryCancel();
  EXPECT_TRUE(cancelled.WaitForNotificationWithTimeout(absl::Seconds(30)));
  caller.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(FailureTest, DeadlineReachesTheWorker) {
  GatewayLimits limits;
  limits.max_request_time = absl::Seconds(30);
  StartWithWorker(limits);
  absl::Time at_worker, arrival;
  worker_->SetScript([&](auto& context, const auto& request, auto& writer) {
    at_worker = absl::FromChrono(context.deadline());
    arrival = absl::Now();
    return FakeWorker::Echo(context, request, writer);
  });
  // Calls tell each other how much time is left, rounded: the way to the worker adds what it takes.
  const auto check = [&](absl::Time begin, absl::Duration time) {
    EXPECT_GT(at_worker, begin + time - absl::Seconds(1));
    EXPECT_LT(at_worker, arrival + time + absl::Seconds(1));
  };
  grpc::ClientContext context;
  absl::Time begin = absl::Now();
  context.set_deadline(absl::ToChronoTime(begin + absl::Seconds(15)));
  auto reader = stub_->StreamGenerate(&context, IdsRequest({1}, 1));
  EXPECT_TRUE(ReadAll(*reader).status.ok());
  check(begin, absl::Seconds(15));
  begin = absl::Now();
  EXPECT_TRUE(Stream(IdsRequest({1}, 1)).status.ok());  // without one: the gateway's own
  check(begin, limits.max_request_time);
}

TEST_F(FailureTest, GatewaysOwnDeadlineHasAReason) {
  GatewayLimits limits;
  limits.max_request_time = absl::Milliseconds(200);
  StartWithWorker(limits);
  std::atomic<bool> cancelled = false;
  worker_->SetScript(EndlessUntilCancelled(&cancelled));
  ASSERT_TRUE(Eventually([&] {  // until one is at the worker in so short a time
    const Answer answer = Stream(IdsRequest({1}, 1));
    EXPECT_EQ(answer.status.code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_EQ(ReasonOf(answer.status), "DEADLINE");
    EXPECT_TRUE(answer.continuous);
    return worker_->streams() > 0;
  }));
  EXPECT_TRUE(Eventually([&] { return cancelled.load(); }));
  worker_->Stop();  // and waits for those that came too late
}

TEST_F(FailureTest, RefusalOfTheWorkerIsPassedOn) {
  StartWithWorker();
  worker_->SetScript(
      [](auto&, const auto&, auto&) { return ToGrpc(Refusal("QUEUE_FULL", "256 wait, limit 256")); });
  grpc::ClientContext context;
  auto reader = stub_->StreamGenerate(&context, IdsRequest({1}, 1));
  v1::StreamGenerateResponse response;
  EXPECT_FALSE(reader->Read(&response));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(status.error_message(), "256 wait, limit 256");
  EXPECT_EQ(ReasonOf(FromGrpc(status)), "QUEUE_FULL");
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  int retries = 0;
  for (const auto& any : details.details()) retries += any.Is<google::rpc::RetryInfo>();
  EXPECT_EQ(retries, 1);
}

TEST_F(FailureTest, NonsenseOfTheWorkerIsInternal) {
  StartWithWorker();
  using Script = FakeWorker::Script;
  const Script scripts[] = {
      [](auto&, const auto&, auto&) { return grpc::Status::OK; },
      [](auto&, const auto&, auto& w) { return FakeWorker::WriteDelta(w, 0, 1, "x"), grpc::Status::OK; },
      [](auto&, const auto&, auto& w) { return FakeWorker::WriteFinished(w), grpc::Status::OK; },
      [](auto&, const auto& r, auto& w) { return FakeWorker::WriteStarted(w, r), grpc::Status::OK; },
      [](auto&, const auto& r, auto& w) {
        return FakeWorker::WriteStarted(w, r), FakeWorker::WriteStarted(w, r), grpc::Status::OK;
      },
      [](auto&, const auto& r, auto& w) {
        return FakeWorker::WriteStarted(w, r), FakeWorker::WriteDelta(w, 1, 1, "x"), grpc::Status::OK;
      },
      [](auto&, const auto& r, auto& w) {
        return FakeWorker::WriteStarted(w, r), FakeWorker::WriteFinished(w), FakeWorker::WriteFinished(w),
               grpc::Status::OK;
      },
      [](auto&, const auto& r, auto& w) {
        return FakeWorker::WriteStarted(w, r), w.Write({}), grpc::Status::OK;
      },
  };
  for (size_t i = 0; i < std::size(scripts); ++i) {
    worker_->SetScript(scripts[i]);
    EXPECT_EQ(Stream(IdsRequest({1}, 1)).status.code(), absl::StatusCode::kInternal) << i;
  }
  worker_->SetScript(FakeWorker::Echo);
  EXPECT_TRUE(Stream(IdsRequest({1}, 1)).status.ok());
}

// However many there are in a row, and wherever: the answer leaves the worker at the first one.
TEST_F(FailureTest, MessagesThatCannotBeReadAreALoss) {
  StartWithWorker(kHasty);
  for (const int before : {0, 2}) {
    for (const int unreadable : {1, 2, 3, 100}) {
      worker_->SetScript([before, unreadable](auto& context, const auto& request, auto& writer) {
        FakeWorker::WriteStarted(writer, request);
        for (int i = 0; i < before; ++i) FakeWorker::WriteDelta(writer, i, 1, "x");
        for (int i = 0; i < unreadable; ++i)
          FakeWorker::WriteDelta(writer, before + i, 1, "\xff");  // no UTF-8
        while (!context.IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
        return grpc::Status::CANCELLED;
      });
      const Answer answer = Stream(IdsRequest({1}, 200));
      EXPECT_EQ(ReasonOf(answer.status), "NO_COMPATIBLE_WORKER") << answer.status;
      EXPECT_THAT(std::string(answer.status.message()),
                  ::testing::HasSubstr(absl::StrCat("damaged after ", before, " tokens")));
      EXPECT_EQ(answer.ids.size(), before);
    }
  }
}

TEST_F(FailureTest, SlowConsumerIsCutOff) {
  GatewayLimits limits;
  limits.max_pending_bytes = 256 << 10;
  StartWithWorker(limits);
  uint64_t sent = 0;
  const Answer answer = ReadLate(std::string(32 << 10, 'z'), &sent);
  EXPECT_EQ(answer.status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(ReasonOf(answer.status), "SLOW_CONSUMER") << answer.status;
  EXPECT_TRUE(answer.continuous);
  EXPECT_LT(answer.text.size(), sent);
}

// A stream of a client that takes nothing until it is told to.
class Client final : public grpc::ClientReadReactor<v1::StreamGenerateResponse> {
 public:
  Client(v1::GenerationService::Stub& stub, v1::StreamGenerateRequest request, bool reads)
      : request_(std::move(request)) {
    stub.async()->StreamGenerate(&context_, &request_, this);
    if (reads) Read();
    AddHold();  // or reads could not begin later
    StartCall();
  }

  void Read() { StartRead(&response_); }

  // Once it is over.
  absl::Status Wait() {
    RemoveHold();
    if (!done_.WaitForNotificationWithTimeout(absl::Seconds(60))) {
      context_.TryCancel();
      done_.WaitForNotification();
      return absl::DeadlineExceededError("the stream did not end");
    }
    return status_;
  }
  uint64_t tokens() const { return tokens_; }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (response_.has_delta()) tokens_ += static_cast<uint64_t>(response_.delta().token_ids_size());
    StartRead(&response_);
  }
  void OnDone(const grpc::Status& status) override {
    status_ = FromGrpc(status);
    done_.Notify();
  }

  const v1::StreamGenerateRequest request_;
  grpc::ClientContext context_;
  v1::StreamGenerateResponse response_;
  std::atomic<uint64_t> tokens_ = 0;
  absl::Status status_;
  absl::Notification done_;
};

TEST_F(FailureTest, OfManyStreamsOfAConnectionThoseThatNobodyReadsAreReset) {
  constexpr uint32_t kTokens = 40, kEndless = 400;
  GatewayLimits limits;
  limits.max_pending_bytes = 64 << 10;
  StartWithWorker(limits);
  std::atomic<int> cancelled = 0;
  worker_->SetScript([&](auto& context, const auto& request, auto& writer) {
    if (request.options().max_tokens() != kEndless) return FakeWorker::Echo(context, request, writer);
    FakeWorker::WriteStarted(writer, request);
    const std::string text(16 << 10, 'z');
    for (uint64_t i = 0; i < kContext / 2 && FakeWorker::WriteDelta(writer, i, 1, text); ++i) {
      absl::SleepFor(absl::Milliseconds(2));
    }
    while (!context.IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
    ++cancelled;
    return grpc::Status::CANCELLED;
  });
  const auto stub = NarrowStub();
  std::vector<std::unique_ptr<Client>> asleep, awake;
  for (int i = 0; i < 4; ++i) {
    asleep.push_back(std::make_unique<Client>(*stub, IdsRequest({1}, kEndless), /*reads=*/false));
  }
  for (int i = 0; i < 24; ++i) {
    awake.push_back(std::make_unique<Client>(*stub, IdsRequest({1, 2, 3}, kTokens), /*reads=*/true));
  }
  for (auto& client : awake) {
    EXPECT_TRUE(client->Wait().ok());
    EXPECT_EQ(client->tokens(), kTokens);
  }
  EXPECT_TRUE(Eventually([&] { return cancelled == 4; }));
  // Who wakes up when the gateway has bidden farewell finds what was on its way, and a bare status; or the
  // reason, if the transport still had room for it.
  absl::SleepFor(absl::Seconds(4));
  for (auto& client : asleep) {
    client->Read();
    const absl::Status status = client->Wait();
    EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
    EXPECT_THAT(ReasonOf(status), ::testing::AnyOf("", "SLOW_CONSUMER")) << status;
    EXPECT_LT(client->tokens(), kContext / 2);
  }
  const std::string metrics = testing::HttpGet(gateway_->server().http_address(), "/metrics").body;
  EXPECT_THAT(metrics, ::testing::HasSubstr("clamor_gateway_streams_open 0\n"));
  EXPECT_THAT(metrics, ::testing::ContainsRegex("outcome=\"cancelled\",reason=\"SLOW_CONSUMER\"} 4\n"));
}

TEST_F(FailureTest, NobodyThere) {
  const GatewayLimits limits = {.fleet = {.failover_wait = absl::Seconds(30)}};
  StartGateway({"127.0.0.1:1"}, limits);
  const absl::Time start = absl::Now();
  const Answer answer = Stream(IdsRequest({1}, 1));
  EXPECT_EQ(answer.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(answer.status), "NO_WORKER");
  EXPECT_LT(absl::Now() - start, limits.fleet.failover_wait) << "nobody waits for the first one";
  EXPECT_FALSE(Ready());
}

TEST_F(FailureTest, UnhealthyWorkerGetsNothingUntilItIsWell) {
  StartWithWorker();
  worker_->SetServing(false);
  ASSERT_TRUE(Eventually([&] { return !Ready(); }));
  EXPECT_EQ(ReasonOf(Stream(IdsRequest({1}, 1)).status), "NO_WORKER");
  worker_->SetServing(true);
  ASSERT_TRUE(Eventually([&] { return Ready(); }));
  v1::WorkerLoad draining;
  draining.set_draining(true);
  worker_->SetLoad(draining);
  ASSERT_TRUE(Eventually([&] { return !Ready(); }));
  EXPECT_EQ(ReasonOf(Stream(IdsRequest({1}, 1)).status), "NO_WORKER");
  EXPECT_EQ(worker_->streams(), 0);
}

TEST_F(FailureTest, WorkerThatStopsMidStream) {
  StartWithWorker(kHasty);
  const int port = worker_->port();
  std::atomic<bool> cancelled = false;
  worker_->SetScript(EndlessUntilCancelled(&cancelled));
  grpc::ClientContext context;
  auto reader = stub_->StreamGenerate(&context, IdsRequest({1}, 1));
  v1::StreamGenerateResponse response;
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(reader->Read(&response));
  const absl::Time start = absl::Now();
  worker_->Stop();
  const absl::Status status = ReadAll(*reader).status;
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_EQ(ReasonOf(status), "NO_COMPATIBLE_WORKER");
  EXPECT_LT(absl::Now() - start, kSoon);
  worker_ = std::make_unique<FakeWorker>(port);
  ASSERT_TRUE(Eventually([&] { return Stream(IdsRequest({1}, 3)).status.ok(); }));
}

TEST_F(FailureTest, WorkerThatIsKilledMidStreamAndStartedAgain) {
  int port;
  {
    FakeWorker reserved;
    port = reserved.port();
  }
  const std::vector<std::string> command = {CLAMOR_FAKE_WORKER, std::to_string(port)};
  auto process = std::make_unique<ChildProcess>(command);
  StartGateway({"127.0.0.1:" + std::to_string(port)}, kHasty);
  ASSERT_TRUE(Eventually([&] { return Ready(); }));
  grpc::ClientContext context;
  auto reader = stub_->StreamGenerate(&context, IdsRequest({1}, 1));
  v1::StreamGenerateResponse response;
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(reader->Read(&response));
  const absl::Time start = absl::Now();
  process->Signal(SIGKILL);
  const absl::Status status = ReadAll(*reader).status;
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_EQ(ReasonOf(status), "NO_COMPATIBLE_WORKER");
  EXPECT_LT(absl::Now() - start, kSoon);
  EXPECT_EQ(ReasonOf(Stream(IdsRequest({1}, 1)).status), "NO_WORKER");
  EXPECT_LT(absl::Now() - start, kSoon);
  process->Wait();
  process = std::make_unique<ChildProcess>(command);
  ASSERT_TRUE(Eventually([&] { return Ready(); }));
  grpc::ClientContext again;
  auto second = stub_->StreamGenerate(&again, IdsRequest({1}, 1));
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(second->Read(&response));
  again.TryCancel();
}

TEST_F(FailureTest, DrainFinishesWhatRunsAndRefusesTheRest) {
  StartWithWorker();
  absl::Notification entered, finish;
  worker_->SetScript([&](auto& context, const auto& request, auto& writer) {
    if (entered.HasBeenNotified()) return FakeWorker::Echo(context, request, writer);
    FakeWorker::WriteStarted(writer, request);
    entered.Notify();
    finish.WaitForNotification();
    FakeWorker::WriteDelta(writer, 0, 1, "x");
    FakeWorker::WriteFinished(writer);
    return grpc::Status::OK;
  });
  std::thread runner([&] { gateway_->Run(); });
  Answer answer;
  std::thread client([&] { answer = Stream(IdsRequest({1}, 1)); });
  entered.WaitForNotification();
  gateway_->server().Stop();
  ASSERT_TRUE(Eventually([&] { return ReasonOf(Stream(IdsRequest({1}, 1)).status) == "DRAINING"; }));
  EXPECT_FALSE(Ready());
  finish.Notify();
  client.join();
  runner.join();
  EXPECT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.finishes, 1);
}

}  // namespace
}  // namespace clamor
