// Under ThreadSanitizer alone. What keeps it quiet about libraries that come without instrumentation
// (tsan.supp, tsan_absl.cc) must not keep it quiet about us: a class of ours whose rule is one thread at a
// time, used by two, with and without the lock that belongs there.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "services/gateway/pending_events.h"

namespace clamor {
namespace {

[[noreturn]] void TwoThreads(bool locked) {
  absl::Mutex mu;
  PendingEvents events;
  const auto add = [&] {
    for (int i = 0; i < 1000; ++i) {
      v1::Delta delta;
      delta.add_token_ids(1);
      if (locked) mu.Lock();
      events.Add(std::move(delta));
      if (locked) mu.Unlock();
    }
  };
  std::thread one(add), other(add);
  one.join();
  other.join();
  std::exit(0);
}

TEST(PlantedRaceDeathTest, IsReported) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      TwoThreads(/*locked=*/false),
      [](int status) { return !(WIFEXITED(status) && WEXITSTATUS(status) == 0); }, "data race");
}

TEST(PlantedRaceDeathTest, WithItsLockItIsNone) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(TwoThreads(/*locked=*/true), ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace clamor
