// Workers that hang, stand still or drain are left in the middle of answers; those that are only busy are
// not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>

#include "absl/synchronization/notification.h"
#include "tests/services/gateway/failover_fixture.h"

namespace clamor {
namespace {

using testing::Eventually;
using testing::FakeWorker;
using ::testing::HasSubstr;

// The hung worker wakes up and talks on: the client hears none of it.
TEST_F(FailoverTest, AHungWorkerIsLeftAndFenced) {
  absl::Notification taken_over;
  std::atomic<bool> talked = false;
  StartFleet(2, testing::Survive, kWatchful);
  const Whole undisturbed = Ask(Request()).by_choice[0];
  for (const auto& worker : workers_) {
    worker->SetScript(model_.Script(
        [&, w = worker.get()](grpc::ServerContext&, const FakeWorker::Request& request, uint64_t index) {
          if (!request.emitted_ids()
                   .empty()) {  // the next worker goes on when the hung one has told all it knows
            if (index == 5) taken_over.Notify();
            while (!talked) absl::SleepFor(absl::Milliseconds(1));
          } else if (index == 5) {
            w->SetSilent(true);
            taken_over.WaitForNotification();
            w->SetSilent(false);
          } else if (index == 30) {
            talked = true;
          }
          return grpc::Status::OK;
        }));
  }
  const Answers answers = Ask(Request());
  ASSERT_TRUE(answers.status.ok()) << answers.status;
  EXPECT_EQ(answers.by_choice.at(0), undisturbed);
  EXPECT_THAT(Metrics(), HasSubstr("clamor_gateway_failovers_total{outcome=\"moved\",reason=\"hung\"} 1\n"));
  EXPECT_TRUE(Eventually([&] { return ReadyWorkers() == 2; })) << "it gets requests again";
}

TEST_F(FailoverTest, AWorkerWhoseEngineStandsStillIsLeft) {
  StartFleet(2, testing::Survive, kWatchful);
  const Whole undisturbed = Ask(Request()).by_choice[0];
  std::atomic<bool> cancelled = false;
  for (const auto& worker : workers_) {
    worker->SetScript([&, w = worker.get()](grpc::ServerContext& context, const FakeWorker::Request& request,
                                            FakeWorker::Writer& writer) {
      if (request.follows()) return model_.Script()(context, request, writer);
      FakeWorker::WriteStarted(writer, request);
      v1::WorkerLoad load;
      load.set_stalled_seconds(2);
      load.set_slow_step_seconds(0.01);
      w->SetLoad(load);
      while (!context.IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
      cancelled = true;
      w->SetLoad({});
      return grpc::Status::CANCELLED;
    });
  }
  const Answers answers = Ask(Request());
  ASSERT_TRUE(answers.status.ok()) << answers.status;
  EXPECT_EQ(answers.by_choice.at(0), undisturbed);
  EXPECT_TRUE(Eventually([&] { return cancelled.load(); }));
  EXPECT_TRUE(Eventually([&] { return ReadyWorkers() == 2; })) << "it moves again";
}

// Slow is not hung: an engine whose steps are as slow as ever, a worker that talks but on its streams alone.
TEST_F(FailoverTest, NobodyLeavesABusyWorker) {
  StartFleet(2, testing::Survive, kWatchful);
  v1::WorkerLoad slow;
  slow.set_stalled_seconds(1.5);
  slow.set_slow_step_seconds(0.5);
  for (const auto& worker : workers_) {
    worker->SetLoad(slow);
    worker->SetScript([&, w = worker.get()](grpc::ServerContext&, const FakeWorker::Request& request,
                                            FakeWorker::Writer& writer) {
      FakeWorker::WriteStarted(writer, request);
      const bool silent = request.options().max_tokens() == 1;
      w->SetSilent(silent);
      const int tokens = silent ? 100 : 2;
      for (int i = 0; i < tokens; ++i) {
        FakeWorker::WriteDelta(writer, static_cast<uint64_t>(i), 1, "x");
        absl::SleepFor(kWatchful.fleet.hang_after * 2 / tokens);
      }
      w->SetSilent(false);
      FakeWorker::WriteFinished(writer);
      return grpc::Status::OK;
    });
  }
  for (const uint32_t max_tokens : {1, 2}) {
    const Answer answer = Stream(Request(max_tokens));
    EXPECT_TRUE(answer.status.ok()) << answer.status;
    EXPECT_EQ(streams(), static_cast<int>(max_tokens)) << "nobody moved";
  }
}

TEST_F(FailoverTest, AWorkerThatDrainsAloneFinishesWhatItHas) {
  absl::Notification go;
  StartFleet(1, [&](grpc::ServerContext& context, const FakeWorker::Request& request, uint64_t index) {
    while (index == 6 && request.emitted_ids().empty() && !go.HasBeenNotified() && !context.IsCancelled())
      absl::SleepFor(absl::Milliseconds(1));
    return context.IsCancelled() ? grpc::Status::CANCELLED : grpc::Status::OK;
  });
  v1::WorkerLoad draining;
  draining.set_draining(true);
  Answers alone;
  std::thread client([&] { alone = Ask(Request()); });
  ASSERT_TRUE(Eventually([&] { return streams() == 1; }));
  workers_[0]->SetLoad(draining);
  ASSERT_TRUE(Eventually([&] { return ReadyWorkers() == 0; }));
  go.Notify();
  client.join();
  ASSERT_TRUE(alone.status.ok()) << alone.status;
  EXPECT_EQ(streams(), 1);
}

TEST_F(FailoverTest, StreamsLeaveAWorkerThatDrains) {
  StartFleet(2, StandStill);
  Answers answers;
  std::thread client([&] { answers = Ask(Request()); });
  ASSERT_TRUE(Eventually([&] { return streams() == 1; }));
  v1::WorkerLoad draining;
  draining.set_draining(true);
  workers_[workers_[0]->streams() == 1 ? 0 : 1]->SetLoad(draining);
  client.join();
  ASSERT_TRUE(answers.status.ok()) << answers.status;
  EXPECT_EQ(answers.by_choice.at(0).ids.size(), 30u);
  EXPECT_EQ(streams(), 2);
  EXPECT_THAT(Metrics(),
              HasSubstr("clamor_gateway_failovers_total{outcome=\"moved\",reason=\"drained\"} 1\n"));
}

TEST_F(FailoverTest, AWorkerThatIsBackFromADrainKeepsItsStreams) {
  StartFleet(2, testing::Survive);
  v1::WorkerLoad draining;
  draining.set_draining(true);
  for (const auto& worker : workers_) {
    worker->SetLoad(draining);
    ASSERT_TRUE(Eventually([&] { return ReadyWorkers() == 1; }));
    worker->SetLoad({});
    ASSERT_TRUE(Eventually([&] { return ReadyWorkers() == 2; }));
  }
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(Ask(Request()).status.ok());
  EXPECT_EQ(streams(), 4) << "nobody moved";
}

TEST_F(FailoverTest, NoAnswerWandersForEver) {
  StartFleet(2, testing::Survive);
  for (const auto& worker : workers_) {
    worker->SetScript(
        [](grpc::ServerContext&, const FakeWorker::Request& request, FakeWorker::Writer& writer) {
          FakeWorker::WriteStarted(writer, request);
          return ToGrpc(Refusal("DRAINING", "the worker stopped before the answer was complete"));
        });
  }
  const Answers answers = Ask(Request());
  EXPECT_EQ(ReasonOf(answers.status), "NO_COMPATIBLE_WORKER") << answers.status;
  EXPECT_EQ(streams(), 33);
}

// A worker that was told to drain since the gateway last asked refuses: another is asked, the client hears
// nothing.
TEST_F(FailoverTest, ARefusalOfAWorkerThatDrainsIsNoClientsConcern) {
  StartFleet(2, testing::Survive);
  std::atomic<int> refused = 0;
  for (const auto& worker : workers_) {
    worker->SetScript([&, w = worker.get()](grpc::ServerContext& context, const FakeWorker::Request& request,
                                            FakeWorker::Writer& writer) {
      if (refused++ > 0) return model_.Script()(context, request, writer);
      v1::WorkerLoad draining;
      draining.set_draining(true);
      w->SetLoad(draining);
      return ToGrpc(Refusal("DRAINING", "this worker takes no new requests"));
    });
  }
  EXPECT_TRUE(Ask(Request()).status.ok());
  EXPECT_EQ(refused, 2);
}

}  // namespace
}  // namespace clamor
