#include "services/session/session_keeper.h"

#include <gtest/gtest.h>

#include <atomic>

#include "absl/synchronization/notification.h"
#include "services/rpc_error.h"

namespace clamor {
namespace {

TEST(SessionKeeperTest, DoesWhatWaitsBeforeItGoes) {
  std::atomic<int> done = 0;
  {
    SessionKeeper keeper(nullptr, {.threads = 2});
    for (int i = 0; i < 100; ++i) EXPECT_TRUE(keeper.Run([&] { ++done; }).ok());
  }
  EXPECT_EQ(done, 100);
}

TEST(SessionKeeperTest, TooManyAreRefused) {
  absl::Notification go;
  std::atomic<int> done = 0;
  {
    SessionKeeper keeper(nullptr, {.threads = 1, .max_tasks = 3});
    absl::Notification running;
    ASSERT_TRUE(keeper
                    .Run([&] {
                      running.Notify();
                      go.WaitForNotification();
                    })
                    .ok());
    running.WaitForNotification();
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(keeper.Run([&] { ++done; }).ok());
    EXPECT_EQ(ReasonOf(keeper.Run([&] { ++done; })), "STORE_UNAVAILABLE");
    go.Notify();
  }
  EXPECT_EQ(done, 3);
}

}  // namespace
}  // namespace clamor
