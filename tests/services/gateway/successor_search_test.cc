#include "services/gateway/successor_search.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <string>

#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"

namespace clamor {
namespace {

using ::testing::ElementsAre;

class SuccessorSearchTest : public ::testing::Test {
 protected:
  // Workers that are there, by the models' names.
  std::optional<WorkerLease> Find(const SuccessorSearch::Wanted& wanted) {
    ++tries_;
    if (wanted.like.name() != there_) return std::nullopt;
    excluded_ = wanted.excluded;
    return WorkerLease(&channel_);
  }
  static SuccessorSearch::Wanted Like(const std::string& name) {
    SuccessorSearch::Wanted wanted;
    wanted.like.set_name(name);
    return wanted;
  }

  WorkerChannel channel_{{"127.0.0.1:1"}};
  std::string there_;  // changed while nobody searches, or by the search's thread
  std::vector<std::string> excluded_;
  std::atomic<int> tries_ = 0;
  SuccessorSearch search_{[this](const auto& wanted) { return Find(wanted); }};
};

TEST_F(SuccessorSearchTest, WhoIsThereIsFoundAtOnce) {
  there_ = "a";
  absl::Notification done;
  SuccessorSearch::Wanted wanted = Like("a");
  wanted.excluded = {"x", "y"};
  search_.Begin(wanted, absl::InfiniteFuture(), [&](std::optional<WorkerLease> lease) {
    EXPECT_TRUE(lease.has_value());
    EXPECT_EQ(channel_.Snapshot().streams, 1);
    done.Notify();
  });
  done.WaitForNotification();
  EXPECT_THAT(excluded_, ElementsAre("x", "y"));
}

TEST_F(SuccessorSearchTest, WhoComesLaterIsFoundWhenTheFleetChanges) {
  absl::Notification found;
  search_.Begin(Like("b"), absl::InfiniteFuture(), [&](std::optional<WorkerLease> lease) {
    EXPECT_TRUE(lease.has_value());
    found.Notify();
  });
  // The end of another search changes who is there.
  absl::Notification changed;
  search_.Begin(Like("nobody"), absl::Now(), [&](std::optional<WorkerLease> lease) {
    EXPECT_FALSE(lease.has_value()) << "out of time";
    there_ = "b";
    changed.Notify();
  });
  changed.WaitForNotification();
  EXPECT_FALSE(found.HasBeenNotified());
  search_.FleetChanged();
  found.WaitForNotification();
}

TEST_F(SuccessorSearchTest, EndsAtItsDeadlineAndWithoutTryingAllTheTime) {
  absl::Notification done;
  const absl::Time deadline = absl::Now() + absl::Milliseconds(50);
  search_.Begin(Like("nobody"), deadline, [&](std::optional<WorkerLease> lease) {
    EXPECT_FALSE(lease.has_value());
    done.Notify();
  });
  done.WaitForNotification();
  EXPECT_GE(absl::Now(), deadline);
  EXPECT_LE(tries_, 3);
}

TEST_F(SuccessorSearchTest, IsGivenUp) {
  absl::Notification done;
  const uint64_t ticket =
      search_.Begin(Like("nobody"), absl::InfiniteFuture(), [&](std::optional<WorkerLease> lease) {
        EXPECT_FALSE(lease.has_value());
        done.Notify();
      });
  search_.GiveUp(ticket);
  done.WaitForNotification();
  search_.GiveUp(ticket);  // long gone
}

// A search that ends may begin another, and a lease that nobody takes goes back.
TEST_F(SuccessorSearchTest, ManyAtOnce) {
  there_ = "a";
  constexpr int kSearches = 100;
  absl::BlockingCounter ended(2 * kSearches);
  for (int i = 0; i < kSearches; ++i) {
    search_.Begin(Like("a"), absl::InfiniteFuture(), [&](std::optional<WorkerLease> lease) {
      EXPECT_TRUE(lease.has_value());
      search_.Begin(Like("nobody"), absl::Now(), [&](std::optional<WorkerLease> none) {
        EXPECT_FALSE(none.has_value());
        ended.DecrementCount();
      });
      ended.DecrementCount();
    });
  }
  ended.Wait();
  EXPECT_EQ(channel_.Snapshot().streams, 0);
}

}  // namespace
}  // namespace clamor
