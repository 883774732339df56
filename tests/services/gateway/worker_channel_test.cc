#include "services/gateway/worker_channel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <string>

#include "tests/services/gateway/fake_worker.h"
#include "tests/services/gateway/gateway_fixture.h"

namespace clamor {
namespace {

using testing::Eventually;
using testing::FakeWorker;

v1::WorkerState StateOf(const WorkerChannel& channel) { return channel.Snapshot().state; }

TEST(WorkerChannelTest, FindsAWorkerThatStartsLaterAndLearnsItsLoad) {
  int port;
  {
    FakeWorker reserved;
    port = reserved.port();
  }
  WorkerChannel channel({"127.0.0.1:" + std::to_string(port)});
  channel.Connect([] {});
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_EQ(StateOf(channel), v1::WORKER_STATE_DOWN);
  EXPECT_EQ(channel.Snapshot().model, nullptr);
  FakeWorker worker(port);
  v1::WorkerLoad load;
  load.set_running(3);
  worker.SetLoad(load);
  ASSERT_TRUE(Eventually([&] { return StateOf(channel) == v1::WORKER_STATE_READY; }));
  ASSERT_TRUE(Eventually([&] { return channel.Snapshot().load.running() == 3; }));
  EXPECT_EQ(channel.Snapshot().model->info().SerializeAsString(), worker.info().SerializeAsString());
}

TEST(WorkerChannelTest, KeepsTheModelOfALostWorkerAndComesBack) {
  FakeWorker worker;
  WorkerChannel channel({worker.address()});
  channel.Connect([] {});
  ASSERT_TRUE(Eventually([&] { return StateOf(channel) == v1::WORKER_STATE_READY; }));
  worker.SetSilent(true);  // or it might be back before we look
  channel.ReportLost();
  EXPECT_EQ(StateOf(channel), v1::WORKER_STATE_DOWN);
  EXPECT_NE(channel.Snapshot().model, nullptr);
  worker.SetSilent(false);
  ASSERT_TRUE(Eventually([&] { return StateOf(channel) == v1::WORKER_STATE_READY; }));
}

TEST(WorkerChannelTest, LeasesAreCounted) {
  WorkerChannel channel({"127.0.0.1:1"});
  {
    WorkerLease first(&channel);
    WorkerLease second(&channel);
    EXPECT_EQ(channel.Snapshot().streams, 2);
    WorkerLease moved(std::move(second));
    EXPECT_EQ(channel.Snapshot().streams, 2);
  }
  EXPECT_EQ(channel.Snapshot().streams, 0);
}

TEST(WorkerChannelTest, StreamsAreToldToLeaveWheneverTheyOpen) {
  WorkerChannel channel({"127.0.0.1:1"});
  std::string told;
  const auto teller = [&told](char who) {
    return [&told, who](Loss why) { told += absl::StrCat(std::string(1, who), LossName(why), " "); };
  };
  WorkerLease before(&channel);
  before.OnLeave(teller('a'));
  {
    WorkerLease gone(&channel);
    gone.OnLeave(teller('b'));
  }
  EXPECT_EQ(told, "");
  channel.SendAway(Loss::kDrained);
  EXPECT_EQ(told, "adrained ");
  WorkerLease after(&channel);
  after.OnLeave(teller('c'));
  EXPECT_EQ(told, "adrained cdrained ");
}

// Restarted at its old address, or told to stay after all.
TEST(WorkerChannelTest, AWorkerThatHasDrainedAndIsBackKeepsItsStreams) {
  for (const bool restarted : {true, false}) {
    FakeWorker worker;
    WorkerChannel channel({worker.address()});
    channel.Connect([&channel] {  // what a fleet with another worker does
      if (StateOf(channel) == v1::WORKER_STATE_DRAINING) channel.SendAway(Loss::kDrained);
    });
    ASSERT_TRUE(Eventually([&] { return StateOf(channel) == v1::WORKER_STATE_READY; }));
    v1::WorkerLoad load;
    load.set_draining(true);
    worker.SetLoad(load);
    ASSERT_TRUE(Eventually([&] { return StateOf(channel) == v1::WORKER_STATE_DRAINING; }));
    worker.SetLoad({});
    if (restarted) channel.ReportLost();
    ASSERT_TRUE(Eventually([&] { return StateOf(channel) == v1::WORKER_STATE_READY; }));
    std::atomic<int> told = 0;
    const WorkerLease lease(&channel);
    lease.OnLeave([&](Loss) { ++told; });
    EXPECT_EQ(told, 0) << restarted;
  }
}

TEST(WorkerChannelTest, NobodyLeavesAWorkerThatIsReady) {
  FakeWorker worker;
  WorkerChannel channel({worker.address()});
  channel.SendAway(Loss::kDrained);  // what was decided about the one before it at this address
  channel.Connect([] {});
  ASSERT_TRUE(Eventually([&] { return StateOf(channel) == v1::WORKER_STATE_READY; }));
  WorkerLease lease(&channel);
  lease.OnLeave([](Loss) { ADD_FAILURE() << "it is another now"; });
  channel.SendAway(Loss::kDrained);  // decided before it was ready
}

TEST(WorkerChannelTest, ASilentWorkerIsDownUntilItTalks) {
  FakeWorker worker;
  WorkerChannel channel({worker.address()}, /*hang_after=*/absl::Milliseconds(200));
  channel.Connect([] {});
  ASSERT_TRUE(Eventually([&] { return StateOf(channel) == v1::WORKER_STATE_READY; }));
  std::atomic<int> left = 0;
  WorkerLease lease(&channel);
  lease.OnLeave([&left](Loss why) {
    EXPECT_EQ(why, Loss::kHung);
    ++left;
  });
  worker.SetSilent(true);
  EXPECT_TRUE(Eventually([&] { return StateOf(channel) == v1::WORKER_STATE_DOWN; }));
  EXPECT_TRUE(Eventually([&] { return left == 1; }));
  worker.SetSilent(false);
  EXPECT_TRUE(Eventually([&] { return StateOf(channel) == v1::WORKER_STATE_READY; }));
}

TEST(WorkerChannelTest, AWorkerWhoseEngineStandsStillIsDownUntilItMoves) {
  FakeWorker worker;
  WorkerChannel channel({worker.address()});
  channel.Connect([] {});
  ASSERT_TRUE(Eventually([&] { return StateOf(channel) == v1::WORKER_STATE_READY; }));
  std::atomic<int> left = 0;
  WorkerLease lease(&channel);
  lease.OnLeave([&left](Loss) { ++left; });
  v1::WorkerLoad load;
  load.set_stalled_seconds(3);
  load.set_slow_step_seconds(1);  // as slow as ever
  worker.SetLoad(load);
  ASSERT_TRUE(Eventually([&] { return channel.Snapshot().load.stalled_seconds() == 3; }));
  EXPECT_EQ(StateOf(channel), v1::WORKER_STATE_READY);
  EXPECT_EQ(left, 0);
  load.set_stalled_seconds(5);
  worker.SetLoad(load);
  EXPECT_TRUE(Eventually([&] { return StateOf(channel) == v1::WORKER_STATE_DOWN; }));
  EXPECT_TRUE(Eventually([&] { return left == 1; }));
  load.set_slow_step_seconds(0);  // which is to say that it is not known
  worker.SetLoad(load);
  EXPECT_TRUE(Eventually([&] { return StateOf(channel) == v1::WORKER_STATE_READY; }));
  load.set_stalled_seconds(30);
  worker.SetLoad(load);
  EXPECT_TRUE(Eventually([&] { return StateOf(channel) == v1::WORKER_STATE_DOWN; }));
  EXPECT_TRUE(Eventually([&] { return left == 2; }));
  load.set_stalled_seconds(0);
  worker.SetLoad(load);
  EXPECT_TRUE(Eventually([&] { return StateOf(channel) == v1::WORKER_STATE_READY; }));
  WorkerLease late(&channel);
  late.OnLeave([](Loss) { ADD_FAILURE() << "the worker is well"; });
}

TEST(WorkerChannelTest, DamagedTokenizerIsNotUsed) {
  FakeWorker worker;
  worker.CorruptTokenizer();
  WorkerChannel channel({worker.address()});
  channel.Connect([] {});
  absl::SleepFor(absl::Milliseconds(300));
  EXPECT_EQ(StateOf(channel), v1::WORKER_STATE_DOWN);
  EXPECT_EQ(channel.Snapshot().model, nullptr);
}

}  // namespace
}  // namespace clamor
