// The gate in a whole gateway: who waits, who is refused, and that nothing is left behind.
#include "services/gateway/admission.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>

#include "absl/synchronization/notification.h"
#include "tests/services/gateway/gateway_fixture.h"

namespace clamor {
namespace {

using testing::Eventually;
using testing::FakeWorker;
using ::testing::HasSubstr;

class AdmissionTest : public testing::GatewayTest {
 protected:
  // A worker whose batch has one place, and one more at hand; its answers end when `release_` says so.
  void StartWithOnePlace(GatewayLimits limits = {}) {
    worker_ = std::make_unique<FakeWorker>();
    v1::WorkerLoad load;
    load.set_max_running(1);
    load.set_kv_pages_total(8);
    load.set_kv_page_tokens(16);
    worker_->SetLoad(load);
    worker_->SetScript([this](auto& context, const auto& request, auto& writer) {
      while (!release_.WaitForNotificationWithTimeout(absl::Milliseconds(2))) {
        if (context.IsCancelled()) return grpc::Status::CANCELLED;
      }
      return FakeWorker::Echo(context, request, writer);
    });
    StartGateway({worker_->address()}, limits);
    ASSERT_TRUE(Eventually([&] { return Ready() && PolledCapacity(); }));
  }
  bool PolledCapacity() {
    v1::GetStatusResponse response;
    grpc::ClientContext context;
    return models_->GetStatus(&context, {}, &response).ok() && response.workers_size() == 1 &&
           response.workers(0).load().max_running() == 1;
  }
  std::future<Answer> Begin(uint32_t tokens, const std::string& tenant = "", v1::Priority priority = {}) {
    v1::StreamGenerateRequest request = IdsRequest({1, 2, 3}, tokens);
    request.mutable_options()->set_priority(priority);
    return std::async(std::launch::async, [this, request, tenant] { return Stream(request, tenant); });
  }
  double Metric(const std::string& series) {
    const std::string text = testing::HttpGet(gateway_->server().http_address(), "/metrics").body;
    const size_t at = text.find("\n" + series + " ");
    return at == text.npos ? -1 : std::stod(text.substr(at + series.size() + 2));
  }
  double Waiting(const std::string& priority = "normal") {
    return Metric("clamor_gateway_queue_depth{priority=\"" + priority + "\"}");
  }

  absl::Notification release_;
};

TEST_F(AdmissionTest, RequestsWaitAtTheGateAndNotAtTheWorker) {
  StartWithOnePlace();
  std::vector<std::future<Answer>> answers;
  for (int i = 0; i < 6; ++i) answers.push_back(Begin(4));
  EXPECT_TRUE(Eventually([&] { return worker_->streams() == 2 && Waiting() == 4; }));
  release_.Notify();
  for (auto& answer : answers) {
    const Answer got = answer.get();
    EXPECT_TRUE(got.status.ok()) << got.status;
    EXPECT_EQ(got.ids.size(), 4u);
  }
  EXPECT_EQ(Waiting(), 0);
}

TEST_F(AdmissionTest, AFullQueueRefusesWithATimeToWait) {
  GatewayLimits limits;
  limits.admission.queue = {0, 1, 1};
  StartWithOnePlace(limits);
  std::vector<std::future<Answer>> answers;
  for (int i = 0; i < 3; ++i) answers.push_back(Begin(4));
  ASSERT_TRUE(Eventually([&] { return Waiting() == 1; }));
  const Answer refused = Begin(4).get();
  EXPECT_EQ(ReasonOf(refused.status), "QUEUE_FULL") << refused.status;
  EXPECT_EQ(refused.starts, 0);
  EXPECT_TRUE(refused.status.GetPayload("type.googleapis.com/google.rpc.RetryInfo").has_value());
  EXPECT_EQ(Metric("clamor_gateway_rejections_total{reason=\"QUEUE_FULL\"}"), 1);
  // One of high priority takes the place of another, and the next would have to wait for that.
  answers.push_back(Begin(4, "", v1::PRIORITY_HIGH));
  EXPECT_TRUE(Eventually([&] { return worker_->streams() == 3; }));
  EXPECT_EQ(Waiting(), 1);
  release_.Notify();
  for (auto& answer : answers) EXPECT_TRUE(answer.get().status.ok());
}

TEST_F(AdmissionTest, WhatCanNeverFitIsRefusedAtOnce) {
  StartWithOnePlace();  // 128 tokens
  const Answer refused = Begin(126).get();
  EXPECT_EQ(ReasonOf(refused.status), "CONTEXT_TOO_LONG");
  EXPECT_THAT(std::string(refused.status.message()), HasSubstr("129 tokens exceed the 128"));
  release_.Notify();
  EXPECT_TRUE(Begin(125).get().status.ok());
}

TEST_F(AdmissionTest, WhoGivesUpLeavesTheQueue) {
  StartWithOnePlace();
  std::vector<std::future<Answer>> answers;
  for (int i = 0; i < 2; ++i) answers.push_back(Begin(4));
  ASSERT_TRUE(Eventually([&] { return worker_->streams() == 2; }));
  {
    grpc::ClientContext context;
    auto reader = stub_->StreamGenerate(&context, IdsRequest({1}, 4));
    EXPECT_TRUE(Eventually([&] { return Waiting() == 1; }));
    context.TryCancel();
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
    EXPECT_TRUE(Eventually([&] { return Waiting() == 0; }));
  }
  {
    grpc::ClientContext context;  // its deadline passes while it waits
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(300));
    auto reader = stub_->StreamGenerate(&context, IdsRequest({1}, 4));
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
    EXPECT_TRUE(Eventually([&] { return Waiting() == 0; }));
  }
  EXPECT_EQ(worker_->streams(), 2);  // it never heard of them
  release_.Notify();
  for (auto& answer : answers) EXPECT_TRUE(answer.get().status.ok());
}

TEST_F(AdmissionTest, NobodyWaitsForAWorkerThatIsGone) {
  StartWithOnePlace({.fleet = {.failover_wait = absl::Milliseconds(100)}});
  std::vector<std::future<Answer>> answers;
  for (int i = 0; i < 4; ++i) answers.push_back(Begin(4));
  ASSERT_TRUE(Eventually([&] { return Waiting() == 2; }));
  worker_->Stop();
  for (auto& answer : answers) {
    const absl::Status status = answer.get().status;
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  }
  EXPECT_TRUE(Eventually([&] { return Waiting() == 0; }));
}

TEST_F(AdmissionTest, CapacityIsThatOfTheReadyWorkers) {
  StartWithWorker();
  const auto model = [&] {
    v1::ModelInfo info = worker_->info();
    return *ServedModel::Load(info, *TokenizerFiles::Read(testing::kModelDir));
  }();
  WorkerSnapshot worker;
  worker.state = v1::WORKER_STATE_READY;
  worker.model = model;
  worker.load.set_max_running(16);
  worker.load.set_kv_pages_total(100);
  worker.load.set_kv_page_tokens(16);
  WorkerSnapshot busy = worker;
  busy.load.set_running(9);
  busy.load.set_waiting(3);
  busy.streams_at_poll = 2;  // ten are others'
  busy.load.set_kv_pages_total(50);
  WorkerSnapshot down = worker;
  down.state = v1::WORKER_STATE_DOWN;
  Capacity capacity = CapacityOf({worker, busy, down}, "tiny");
  EXPECT_EQ(capacity.tokens, 2400);
  EXPECT_EQ(capacity.largest, 1600);
  EXPECT_EQ(capacity.requests, 18 + 8);
  EXPECT_EQ(CapacityOf({worker}, "other").requests, 0);
  busy.load.set_max_running(0);  // does not tell
  EXPECT_EQ(CapacityOf({worker, busy}, "tiny").requests, 0);
  busy.load.set_kv_page_tokens(0);
  EXPECT_EQ(CapacityOf({worker, busy}, "tiny").tokens, 0);
}

}  // namespace
}  // namespace clamor
