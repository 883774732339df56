// A Redis that goes away and comes back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <thread>

#include "services/rpc_error.h"
#include "services/session/redis_pool.h"
#include "services/session/session_store.h"
#include "tests/services/session/redis_server.h"

namespace clamor {
namespace {

using testing::RedisServer;
using testing::Soon;
using Words = std::vector<std::string>;

class RedisOutageTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!RedisServer::Installed()) GTEST_SKIP() << RedisServer::kMissing;
    server_ = std::make_unique<RedisServer>();
  }
  RedisOptions Options() { return {.address = *RedisAddress::Parse(server_->url())}; }

  std::unique_ptr<RedisServer> server_;
};

TEST_F(RedisOutageTest, AShortOneIsWaitedOut) {
  RedisPool pool(Options(), absl::Seconds(20));
  ASSERT_TRUE(pool.Call(Words{"SET", "k", "v"}).ok());
  server_->Kill();
  EXPECT_EQ(ReasonOf(pool.Call(Words{"GET", "k"}, RedisPool::Outage::kFail).status()), "STORE_UNAVAILABLE");
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i)
    callers.emplace_back([&] { EXPECT_EQ(pool.Call(Words{"GET", "k"})->text(), "v"); });
  server_->Start();
  for (std::thread& caller : callers) caller.join();
  EXPECT_TRUE(pool.Call(Words{"GET", "k"}, RedisPool::Outage::kFail).ok()) << "it is over";
}

TEST_F(RedisOutageTest, ALongOneIsTold) {
  RedisPool pool(Options(), absl::Milliseconds(200));
  server_->Kill();
  const absl::Status status = pool.Call(Words{"GET", "k"}).status();
  EXPECT_EQ(ReasonOf(status), "STORE_UNAVAILABLE");
  EXPECT_THAT(status.message(), ::testing::HasSubstr(server_->url()));
  EXPECT_EQ(ReasonOf(pool.Call(Words{"GET", "k"}).status()), "STORE_UNAVAILABLE");
  server_->Start();
  EXPECT_TRUE(Soon([&] { return pool.Call(Words{"GET", "k"}).ok(); })) << "somebody tries now and then";
}

TEST_F(RedisOutageTest, AStaleConnectionIsNoOutage) {
  RedisPool pool(Options(), absl::ZeroDuration());
  ASSERT_TRUE(pool.Call(Words{"SET", "k", "v"}).ok());
  server_->Kill();
  server_->Start();
  Soon([this] {  // it takes connections before it has read its data
    RedisPool fresh(Options(), absl::ZeroDuration());
    return fresh.Call(Words{"GET", "k"}, RedisPool::Outage::kFail).ok();
  });
  EXPECT_EQ(pool.Call(Words{"GET", "k"}, RedisPool::Outage::kFail)->text(), "v");
}

// The first try arrives, its answer does not.
TEST_F(RedisOutageTest, WhatWasDoneIsNotDoneAgain) {
  const auto store = *OpenSessionStore({.location = server_->url(), .patience = absl::Seconds(20)});
  v1::Session session;
  session.set_name("s");
  session.set_uid("u");
  *session.mutable_ttl() = ToDuration(3'600'000);
  session = *store->Create("a", session, {});
  v1::Turn turn;
  turn.mutable_answer()->set_request_id("r");
  server_->Pause();
  absl::StatusOr<v1::Session> appended;
  std::thread caller([&] { appended = store->Append("a", session, turn); });
  absl::SleepFor(absl::Milliseconds(1300));  // longer than it waits for an answer
  server_->Resume();
  caller.join();
  ASSERT_TRUE(appended.ok()) << appended.status();
  EXPECT_EQ(appended->version(), 1u);
  EXPECT_EQ(store->Read("a", "s", 0, 10)->turns.size(), 1u);
}

TEST_F(RedisOutageTest, WhatWasAcknowledgedSurvivesAKill) {
  const auto store = *OpenSessionStore({.location = server_->url(), .patience = absl::Seconds(20)});
  v1::Session session;
  session.set_name("s");
  session.set_uid("u");
  *session.mutable_ttl() = ToDuration(3'600'000);
  session = *store->Create("a", session, {});
  for (int i = 0; i < 20; ++i) {
    v1::Turn turn;
    turn.mutable_answer()->set_request_id(absl::StrCat(i));
    session = *store->Append("a", session, turn);
    server_->Kill();
    server_->Start();
    ASSERT_EQ(store->Find("a", "s")->version(), static_cast<uint64_t>(i + 1));
  }
}

}  // namespace
}  // namespace clamor
