#include "services/gateway/worker_channel.h"

#include <gtest/gtest.h>

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
  WorkerChannel channel("127.0.0.1:" + std::to_string(port));
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
  WorkerChannel channel(worker.address());
  channel.Connect([] {});
  ASSERT_TRUE(Eventually([&] { return StateOf(channel) == v1::WORKER_STATE_READY; }));
  channel.ReportLost();
  EXPECT_EQ(StateOf(channel), v1::WORKER_STATE_DOWN);
  EXPECT_NE(channel.Snapshot().model, nullptr);
  ASSERT_TRUE(Eventually([&] { return StateOf(channel) == v1::WORKER_STATE_READY; }));
}

TEST(WorkerChannelTest, LeasesAreCounted) {
  WorkerChannel channel("127.0.0.1:1");
  {
    WorkerLease first(&channel);
    WorkerLease second(&channel);
    EXPECT_EQ(channel.Snapshot().streams, 2);
    WorkerLease moved(std::move(second));
    EXPECT_EQ(channel.Snapshot().streams, 2);
  }
  EXPECT_EQ(channel.Snapshot().streams, 0);
}

TEST(WorkerChannelTest, DamagedTokenizerIsNotUsed) {
  FakeWorker worker;
  worker.CorruptTokenizer();
  WorkerChannel channel(worker.address());
  channel.Connect([] {});
  absl::SleepFor(absl::Milliseconds(300));
  EXPECT_EQ(StateOf(channel), v1::WORKER_STATE_DOWN);
  EXPECT_EQ(channel.Snapshot().model, nullptr);
}

}  // namespace
}  // namespace clamor
