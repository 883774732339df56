#include "services/worker/hedged_lookup.h"

#include <array>
#include <atomic>

#include "gtest/gtest.h"
#include "services/worker/retrieval_drafter.h"
#include "tests/services/worker/fake_retrieval.h"

namespace clamor {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(20);

v1::LookupRequest Request() {
  v1::LookupRequest request;
  request.add_queries()->add_context(1);
  return request;
}

// Answers with one trie that says who answered.
FakeRetrieval::OnLookup Says(uint32_t who, std::function<void()> before = nullptr) {
  return [who, before](const v1::LookupRequest&, v1::LookupResponse* response) {
    if (before) before();
    response->add_tries()->set_match_length(who);
    return grpc::Status::OK;
  };
}

class HedgedLookupTest : public ::testing::Test {
 protected:
  HedgedLookupTest() {
    first_.SetLookup(Says(1));
    second_.SetLookup(Says(2));
  }

  std::unique_ptr<HedgedLookup> Make(absl::Duration timeout = kTimeout) {
    return std::make_unique<HedgedLookup>(MakeRetrievalChannel(first_.address()),
                                          MakeRetrievalChannel(second_.address()), timeout,
                                          [this](Hedge hedge) { ++hedges_[static_cast<size_t>(hedge)]; });
  }
  // Who answered; 0: nobody.
  static uint32_t Ask(HedgedLookup& lookups) {
    absl::Notification done;
    uint32_t who = 0;
    lookups.Start(Request(), [&](const grpc::Status& status, v1::LookupResponse& response) {
      if (status.ok()) who = response.tries(0).match_length();
      done.Notify();
    });
    done.WaitForNotification();
    return who;
  }
  int count(Hedge hedge) const { return hedges_[static_cast<size_t>(hedge)]; }

  absl::Notification asked_second_, go_on_;  // what the servers wait for, so they go first
  FakeRetrieval first_, second_;
  std::array<std::atomic<int>, kHedges> hedges_{};
};

TEST_F(HedgedLookupTest, TheSecondIsLeftAloneWhileTheFirstAnswers) {
  auto lookups = Make();
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Ask(*lookups), 1u);
  EXPECT_LE(second_.lookups().size(), 2u) << "one in twenty, and the one that may be saved up";
}

TEST_F(HedgedLookupTest, WhereTheFirstFailsTheSecondAnswers) {
  first_.SetLookup([](const v1::LookupRequest&, v1::LookupResponse*) {
    return grpc::Status(grpc::StatusCode::INTERNAL, "broken");
  });
  auto lookups = Make();
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Ask(*lookups), 2u) << "as often as it fails";
  EXPECT_EQ(count(Hedge::kFailedWon), 20);
  second_.SetLookup([](const v1::LookupRequest&, v1::LookupResponse*) {
    return grpc::Status(grpc::StatusCode::INTERNAL, "broken too");
  });
  EXPECT_EQ(Ask(*lookups), 0u);
  EXPECT_EQ(count(Hedge::kFailedLost), 1);
  first_.Stop();
  second_.SetLookup(Says(2));
  EXPECT_TRUE(Eventually([&] { return Ask(*lookups) == 2; })) << "also when it is gone";
}

TEST_F(HedgedLookupTest, WhereTheFirstStallsTheSecondAnswersButNotForever) {
  first_.SetLookup(Says(1, [this] { go_on_.WaitForNotificationWithTimeout(absl::Seconds(10)); }));
  auto lookups = Make(absl::Seconds(4));  // of which the second is asked after one
  EXPECT_EQ(Ask(*lookups), 2u);
  EXPECT_EQ(count(Hedge::kSlowWon), 1);
  EXPECT_EQ(second_.lookups().size(), 1u);
  EXPECT_EQ(Ask(*lookups), 0u) << "nothing is left of what may be asked twice";
  EXPECT_EQ(second_.lookups().size(), 1u);
  go_on_.Notify();
  EXPECT_EQ(Ask(*lookups), 1u);
}

TEST_F(HedgedLookupTest, TheFirstMayStillWin) {
  first_.SetLookup(Says(1, [&] { asked_second_.WaitForNotificationWithTimeout(absl::Seconds(10)); }));
  second_.SetLookup(Says(2, [&] {
    if (!asked_second_.HasBeenNotified()) asked_second_.Notify();
    go_on_.WaitForNotificationWithTimeout(absl::Seconds(10));
  }));
  auto lookups = Make();
  EXPECT_EQ(Ask(*lookups), 1u);
  EXPECT_EQ(count(Hedge::kSlowLost), 1);
  go_on_.Notify();
}

TEST_F(HedgedLookupTest, ItsEndCancelsWhatIsUnderWay) {
  first_.SetLookup(Says(1, [this] { go_on_.WaitForNotificationWithTimeout(absl::Seconds(10)); }));
  auto lookups = Make();
  std::atomic<bool> cancelled = false;
  lookups->Start(Request(), [&](const grpc::Status& status, v1::LookupResponse&) {
    cancelled = status.error_code() == grpc::StatusCode::CANCELLED;
  });
  lookups.reset();
  EXPECT_TRUE(cancelled);
  go_on_.Notify();
}

}  // namespace
}  // namespace clamor
