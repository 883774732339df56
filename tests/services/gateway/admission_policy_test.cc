#include "services/gateway/admission_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <random>
#include <set>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "services/rpc_error.h"

namespace clamor {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr Rank kLow = Rank::kLow, kNormal = Rank::kNormal, kHigh = Rank::kHigh;

absl::Time At(double seconds) { return absl::UnixEpoch() + absl::Seconds(seconds); }

AdmissionRequest Ask(int64_t tokens, Rank rank = kNormal, const std::string& tenant = "t") {
  return {.tenant = tenant, .rank = rank, .tokens = tokens, .longest = tokens};
}

absl::Duration RetryOf(const absl::Status& status) {
  google::rpc::RetryInfo retry;
  const auto payload = status.GetPayload("type.googleapis.com/google.rpc.RetryInfo");
  if (!payload || !retry.ParseFromString(std::string(*payload))) return absl::InfiniteDuration();
  return absl::Seconds(retry.retry_delay().seconds()) + absl::Nanoseconds(retry.retry_delay().nanos());
}

// Who runs after Advance.
std::vector<uint64_t> Runs(AdmissionPolicy& policy, double seconds) {
  std::vector<uint64_t> ids;
  for (const AdmissionPolicy::Change& change : policy.Advance(At(seconds))) {
    EXPECT_TRUE(change.status.ok()) << change.status;
    ids.push_back(change.id);
  }
  return ids;
}

TEST(AdmissionPolicyTest, CostsAreTokensAndPlaces) {
  AdmissionPolicy policy({.reserved = {}});
  policy.SetCapacity({.tokens = 100, .requests = 3, .largest = 100});
  EXPECT_TRUE(*policy.Enter(1, Ask(60), At(0)));
  EXPECT_FALSE(*policy.Enter(2, Ask(50), At(0)));  // no room
  EXPECT_FALSE(*policy.Enter(3, Ask(10), At(0)));  // there is, but it must not overtake
  EXPECT_THAT(Runs(policy, 0), IsEmpty());
  policy.Leave(1, 60, At(1));
  EXPECT_THAT(Runs(policy, 1), ElementsAre(2, 3));
  EXPECT_TRUE(*policy.Enter(4, Ask(40), At(1)));
  EXPECT_FALSE(*policy.Enter(5, Ask(0), At(1)));  // three places
  EXPECT_TRUE(policy.CheckIntegrity().ok());
}

TEST(AdmissionPolicyTest, WhatNoWorkerCanHoldIsRefusedAtOnce) {
  AdmissionPolicy policy({});
  policy.SetCapacity({.tokens = 200, .requests = 3, .largest = 100});
  const absl::Status status = policy.Enter(1, Ask(101), At(0)).status();
  EXPECT_EQ(ReasonOf(status), "CONTEXT_TOO_LONG");
  EXPECT_THAT(std::string(status.message()), HasSubstr("101 tokens exceed the 100"));
  EXPECT_TRUE(*policy.Enter(2, {.tokens = 500, .longest = 100}, At(0)));  // five answers, one after the other
}

TEST(AdmissionPolicyTest, QueuesAreBoundedByRank) {
  AdmissionPolicy policy({.queue = {1, 2, 1}, .reserved = {}});
  policy.SetCapacity({.requests = 1});
  EXPECT_TRUE(*policy.Enter(1, Ask(1), At(0)));
  EXPECT_FALSE(*policy.Enter(2, Ask(1), At(0)));
  EXPECT_FALSE(*policy.Enter(3, Ask(1), At(0)));
  const absl::Status full = policy.Enter(4, Ask(1), At(0)).status();
  EXPECT_EQ(ReasonOf(full), "QUEUE_FULL");
  EXPECT_THAT(std::string(full.message()), HasSubstr("2 requests of normal priority wait, limit 2"));
  EXPECT_LE(RetryOf(full), absl::Minutes(1));
  EXPECT_FALSE(*policy.Enter(5, Ask(1, kHigh), At(0)));
  EXPECT_FALSE(*policy.Enter(6, Ask(1, kLow), At(0)));
  EXPECT_EQ(ReasonOf(policy.Enter(7, Ask(1, kLow), At(0)).status()), "QUEUE_FULL");
  policy.Leave(2, 0, At(0));  // was given up
  EXPECT_FALSE(*policy.Enter(8, Ask(1), At(0)));
  EXPECT_EQ(policy.waiting(kNormal), 2);
  EXPECT_EQ(policy.running(), 1);
}

TEST(AdmissionPolicyTest, HighFirstAndSharesAreReserved) {
  AdmissionPolicy policy({.reserved = {0.25, 0, 0.25}});
  policy.SetCapacity({.requests = 4});
  EXPECT_TRUE(*policy.Enter(1, Ask(1), At(0)));
  EXPECT_TRUE(*policy.Enter(2, Ask(1), At(0)));
  EXPECT_FALSE(*policy.Enter(3, Ask(1), At(0)));  // one is kept for each of the others
  EXPECT_FALSE(*policy.Enter(4, Ask(1, kHigh), At(0)));
  EXPECT_FALSE(*policy.Enter(5, Ask(1, kHigh), At(0)));
  EXPECT_FALSE(*policy.Enter(6, Ask(1, kLow), At(0)));
  EXPECT_FALSE(*policy.Enter(7, Ask(1, kLow), At(0)));
  EXPECT_THAT(Runs(policy, 0), ElementsAre(4, 5));  // here they are; 5 in the place of 1 or 2
  policy.Leave(1, 1, At(1));
  EXPECT_THAT(Runs(policy, 1), ElementsAre(6));  // low on its own share, though 3 came first
  policy.Leave(6, 1, At(1));
  EXPECT_THAT(Runs(policy, 1), ElementsAre(7));
}

TEST(AdmissionPolicyTest, WhatIsKeptForHighFollowsWhatItUses) {
  AdmissionPolicy policy({.reserved = {0, 0, 0.125}, .follow = absl::Seconds(10)});
  policy.SetCapacity({.tokens = 800, .requests = 8, .largest = 800});
  const auto places_for_normal = [&](double now) {
    int places = 0;
    while (places < 8 && *policy.Enter(100 + places, Ask(1), At(now))) ++places;
    for (int i = 0; i <= places; ++i) policy.Leave(100 + i, 0, At(now));
    return places;
  };
  EXPECT_EQ(places_for_normal(0), 7);
  for (uint64_t id = 1; id <= 3; ++id) EXPECT_TRUE(*policy.Enter(id, Ask(1, kHigh), At(0)));
  EXPECT_EQ(places_for_normal(0), 5) << "what three have taken";
  for (uint64_t id = 1; id <= 3; ++id) policy.Leave(id, 1, At(100));
  EXPECT_EQ(places_for_normal(100), 4) << "three on average may be four at once";
  EXPECT_EQ(places_for_normal(107), 6) << "1.5 by now";
  EXPECT_EQ(places_for_normal(1000), 7);
  for (uint64_t id = 1; id <= 8; ++id) EXPECT_TRUE(*policy.Enter(id, Ask(1, kHigh), At(1000)));
  for (uint64_t id = 1; id <= 8; ++id) policy.Leave(id, 1, At(1100));
  EXPECT_EQ(places_for_normal(1100), 2) << "never all of it";
}

TEST(AdmissionPolicyTest, WaitingPromotes) {
  AdmissionPolicy policy({.reserved = {}, .promote_after = absl::Seconds(10)});
  policy.SetCapacity({.requests = 1});
  EXPECT_TRUE(*policy.Enter(1, Ask(1), At(0)));
  EXPECT_FALSE(*policy.Enter(2, Ask(1, kLow), At(0)));
  EXPECT_EQ(policy.NextChange(At(0)), At(10));
  EXPECT_EQ(policy.NextChange(At(10)), At(20));
  EXPECT_FALSE(*policy.Enter(3, Ask(1, kHigh), At(19)));
  policy.Leave(1, 1, At(19));
  EXPECT_THAT(Runs(policy, 19), ElementsAre(3));  // 2 counts as normal by now
  EXPECT_FALSE(*policy.Enter(4, Ask(1, kHigh), At(20)));
  policy.Leave(3, 1, At(20));
  EXPECT_THAT(Runs(policy, 20), ElementsAre(2));  // as high, and the oldest
}

TEST(AdmissionPolicyTest, TheTenantWithTheLeastGoesFirst) {
  AdmissionPolicy policy({.reserved = {}});
  policy.SetCapacity({.requests = 2});
  EXPECT_TRUE(*policy.Enter(1, Ask(5, kNormal, "greedy"), At(0)));
  EXPECT_TRUE(*policy.Enter(2, Ask(5, kNormal, "greedy"), At(0)));
  for (uint64_t id = 3; id < 10; ++id) EXPECT_FALSE(*policy.Enter(id, Ask(5, kNormal, "greedy"), At(0)));
  EXPECT_FALSE(*policy.Enter(10, Ask(5, kNormal, "modest"), At(0)));
  policy.Leave(1, 5, At(1));
  EXPECT_THAT(Runs(policy, 1), ElementsAre(10));
}

TEST(AdmissionPolicyTest, ALargeRequestIsNotStarved) {
  AdmissionPolicy policy({.reserved = {0.1, 0, 0}});
  policy.SetCapacity({.tokens = 100});
  EXPECT_TRUE(*policy.Enter(1, Ask(50), At(0)));
  EXPECT_FALSE(*policy.Enter(2, Ask(90), At(0)));
  EXPECT_FALSE(*policy.Enter(3, Ask(10), At(0)));  // behind it
  EXPECT_FALSE(*policy.Enter(4, Ask(10, kLow), At(0)));
  EXPECT_FALSE(*policy.Enter(5, Ask(10, kLow), At(0)));
  EXPECT_THAT(Runs(policy, 0), ElementsAre(4));  // what is reserved for low; 5 would be more than that
  policy.Leave(1, 50, At(1));
  EXPECT_THAT(Runs(policy, 1), ElementsAre(2));
}

TEST(AdmissionPolicyTest, BucketsFillAtTheirRate) {
  AdmissionPolicy policy({});
  const Quota quota = {.tokens_per_second = 10, .burst_tokens = 100};
  const auto enter = [&](uint64_t id, int64_t tokens, double seconds) {
    AdmissionRequest request = Ask(tokens);
    request.quota = quota;
    return policy.Enter(id, request, At(seconds)).status();
  };
  EXPECT_TRUE(enter(1, 90, 0).ok());
  EXPECT_TRUE(enter(2, 60, 0).ok());  // 10 are left: more than none
  const absl::Status over = enter(3, 1, 0);
  EXPECT_EQ(ReasonOf(over), "TENANT_QUOTA");
  EXPECT_NEAR(absl::ToDoubleSeconds(RetryOf(over)), 5.1, 1e-6);  // 50 below zero
  EXPECT_EQ(ReasonOf(enter(4, 1, 4.9)), "TENANT_QUOTA");
  EXPECT_TRUE(enter(5, 1, 5.1).ok());
  policy.Leave(1, 40, At(5.1));  // 50 of the 90 come back
  EXPECT_TRUE(enter(6, 49, 5.1).ok());
  EXPECT_TRUE(enter(7, 1000, 1e6).ok());  // never fuller than its burst
  EXPECT_EQ(RetryOf(enter(8, 1, 1e6)), absl::Minutes(1));
  EXPECT_TRUE(policy.Enter(9, Ask(1, kNormal, "other"), At(1e6)).ok());
}

TEST(AdmissionPolicyTest, RequestsOfATenantAreCounted) {
  AdmissionPolicy policy({.reserved = {}});
  policy.SetCapacity({.requests = 1});
  AdmissionRequest request = Ask(1);
  request.quota.requests = 2;
  EXPECT_TRUE(*policy.Enter(1, request, At(0)));
  EXPECT_FALSE(*policy.Enter(2, request, At(0)));
  const absl::Status over = policy.Enter(3, request, At(0)).status();
  EXPECT_EQ(ReasonOf(over), "TENANT_QUOTA");
  EXPECT_THAT(std::string(over.message()), HasSubstr("has 2 requests, limit 2"));
  policy.Leave(1, 1, At(0));
  EXPECT_FALSE(*policy.Enter(4, request, At(0)));
}

TEST(AdmissionPolicyTest, WhoWouldBeTooLateIsToldAtOnce) {
  AdmissionPolicy policy({.reserved = {}});
  policy.SetCapacity({.requests = 1});
  const auto enter = [&](uint64_t id, double now, double deadline) {
    AdmissionRequest request = Ask(10);
    request.deadline = At(deadline);
    return policy.Enter(id, request, At(now));
  };
  EXPECT_TRUE(*enter(1, 0, 100));
  EXPECT_FALSE(*enter(2, 0, 1));  // nobody knows yet what a request takes
  policy.Leave(2, 0, At(0));
  for (int i = 0; i < 40; ++i) {  // ten seconds each, every time
    policy.Leave(1, 10, At(10 * (i + 1)));
    EXPECT_TRUE(*enter(1, 10 * (i + 1), 1e6));
  }
  EXPECT_EQ(ReasonOf(enter(3, 400, 409).status()), "QUEUE_FULL");  // could not even run in that time
  EXPECT_FALSE(*enter(4, 400, 423));
  const absl::Status late = enter(5, 400, 411).status();  // behind 4
  EXPECT_EQ(ReasonOf(late), "QUEUE_FULL");
  EXPECT_THAT(std::string(late.message()), HasSubstr("it would take"));
  EXPECT_NEAR(absl::ToDoubleSeconds(RetryOf(late)), 10, 1);
  // 4 has been let in, but 1 takes longer than such requests had.
  EXPECT_THAT(policy.Advance(At(411)), IsEmpty());
  EXPECT_GT(policy.NextChange(At(411)), At(411));
  EXPECT_LT(policy.NextChange(At(411)), At(413.1));
  const auto changes = policy.Advance(At(413.1));
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_EQ(changes[0].id, 4u);
  EXPECT_EQ(ReasonOf(changes[0].status), "DEADLINE");
  EXPECT_EQ(policy.waiting(kNormal), 0);
}

TEST(AdmissionPolicyTest, WhoWillBeOvertakenTooLongIsToldAtOnce) {
  AdmissionPolicy policy({.reserved = {}});
  policy.SetCapacity({.requests = 1});
  const auto enter = [&](uint64_t id, Rank rank, double now, double deadline) {
    AdmissionRequest request = Ask(10, rank);
    request.deadline = At(deadline);
    return policy.Enter(id, request, At(now));
  };
  for (int i = 0; i < 100; ++i) {  // ten seconds each; every second one is of high priority
    EXPECT_TRUE(*enter(1, i % 2 == 0 ? kHigh : kNormal, 10 * i, 1e6));
    policy.Leave(1, 10, At(10 * (i + 1)));
  }
  EXPECT_TRUE(*enter(1, kNormal, 1000, 1e6));
  // Behind one that takes ten seconds, and half of the time is that of others: thirty seconds until it is
  // done.
  const absl::Status late = enter(2, kNormal, 1000, 1025).status();
  EXPECT_EQ(ReasonOf(late), "QUEUE_FULL");
  EXPECT_FALSE(*enter(3, kNormal, 1000, 1032));
  policy.Leave(3, 0, At(1000));
  EXPECT_TRUE(*enter(4, kHigh, 1000, 1025));  // in the place of 1
}

// The same rules, said otherwise, with everything counted anew each time.
class DullPolicy {
 public:
  explicit DullPolicy(const AdmissionOptions& options) : options_(options) {}
  Capacity capacity;

  // 1: runs, 0: waits, -1: refused.
  int Enter(uint64_t id, const AdmissionRequest& request, absl::Time now) {
    if (capacity.largest > 0 && request.longest > capacity.largest) return -1;
    Item item = {id, request, now, false};
    const auto same = [&](const Item& i) { return !i.runs && i.request.rank == request.rank; };
    const int64_t waiting = std::count_if(items_.begin(), items_.end(), same);
    item.runs = std::all_of(items_.begin(), items_.end(), [](const Item& i) { return i.runs; }) && Room(item);
    if (!item.runs && waiting >= options_.queue[static_cast<size_t>(request.rank)]) return -1;
    items_.push_back(item);
    return item.runs ? 1 : 0;
  }
  std::vector<uint64_t> Advance(absl::Time now) {
    std::vector<uint64_t> ids;
    while (true) {
      Item* best = nullptr;
      for (Item& item : items_) {
        if (!item.runs && MayRun(item, now) && (best == nullptr || Before(item, *best, now))) best = &item;
      }
      if (best == nullptr) return ids;
      best->runs = true;
      ids.push_back(best->id);
    }
  }
  void Leave(uint64_t id) {
    std::erase_if(items_, [id](const Item& item) { return item.id == id; });
  }
  std::vector<uint64_t> Ids() const {
    std::vector<uint64_t> ids;
    for (const Item& item : items_) ids.push_back(item.id);
    return ids;
  }

 private:
  struct Item {
    uint64_t id;
    AdmissionRequest request;
    absl::Time since;
    bool runs;
  };
  // Places and tokens of what runs, of one rank or of all, of one tenant or of all.
  std::pair<int64_t, int64_t> Running(int rank, const std::string& tenant = "") const {
    std::pair<int64_t, int64_t> sum;
    for (const Item& item : items_) {
      if (!item.runs || (rank >= 0 && static_cast<int>(item.request.rank) != rank)) continue;
      if (!tenant.empty() && item.request.tenant != tenant) continue;
      ++sum.first;
      sum.second += item.request.tokens;
    }
    return sum;
  }
  static bool Fits(int64_t wanted, int64_t there) { return there == 0 || wanted <= there; }
  bool Room(const Item& item) const {
    auto [places, tokens] = Running(-1);
    if (places == 0) return true;
    const bool high = item.request.rank == kHigh;
    if (high) places -= Running(1).first;
    for (int rank = 0; rank < 3; ++rank) {
      if (rank == static_cast<int>(item.request.rank)) continue;
      const auto [own_places, own_tokens] = Running(rank);
      places +=
          std::max<int64_t>(0, int64_t(options_.reserved[rank] * double(capacity.requests)) - own_places);
      tokens += std::max<int64_t>(0, int64_t(options_.reserved[rank] * double(capacity.tokens)) - own_tokens);
    }
    return Fits(places + 1, capacity.requests) && Fits(tokens + item.request.tokens, capacity.tokens);
  }
  bool OnItsShare(const Item& item) const {
    const int rank = static_cast<int>(item.request.rank);
    const auto [places, tokens] = Running(rank);
    return (capacity.requests == 0 ||
            places + 1 <= int64_t(options_.reserved[rank] * double(capacity.requests))) &&
           (capacity.tokens == 0 ||
            tokens + item.request.tokens <= int64_t(options_.reserved[rank] * double(capacity.tokens)));
  }
  bool Before(const Item& a, const Item& b, absl::Time now) const {
    const auto claim = [&](const Item& item) {
      int64_t rank = static_cast<int64_t>(item.request.rank);
      for (absl::Time t = item.since + options_.promote_after; t <= now && rank < 2;
           t += options_.promote_after)
        ++rank;
      return std::tuple(-rank, Running(-1, item.request.tenant).second, item.id);
    };
    return claim(a) < claim(b);
  }
  // Nobody of its rank has a better claim, and if anybody has, it takes only what is its rank's anyway.
  bool MayRun(const Item& item, absl::Time now) const {
    bool first = true, first_of_rank = true;
    for (const Item& other : items_) {
      if (other.runs || other.id == item.id || !Before(other, item, now)) continue;
      first = false;
      if (other.request.rank == item.request.rank) first_of_rank = false;
    }
    return first_of_rank && Room(item) && (first || OnItsShare(item));
  }

  const AdmissionOptions options_;
  std::deque<Item> items_;
};

TEST(AdmissionPolicyTest, AgreesWithItsDullTwin) {
  int refused = 0, waited = 0, ran_later = 0;
  for (uint32_t seed = 0; seed < 60; ++seed) {
    std::mt19937 random(seed);
    const auto below = [&random](int n) { return static_cast<int>(random() % static_cast<uint32_t>(n)); };
    const AdmissionOptions options = {.queue = {below(4), 1 + below(6), 1 + below(4)},
                                      .reserved = {below(3) / 8.0, below(2) / 8.0, below(4) / 8.0},
                                      .follow = absl::ZeroDuration(),
                                      .promote_after = absl::Seconds(1 + below(5))};
    AdmissionPolicy policy(options);
    DullPolicy dull(options);
    double now = 0;
    for (uint64_t id = 1; id < 150; ++id) {
      SCOPED_TRACE(absl::StrCat("seed ", seed, " id ", id));
      if (below(10) == 0) {
        dull.capacity = {.tokens = below(4) * 40, .requests = below(9), .largest = below(3) * 30};
        policy.SetCapacity(dull.capacity);
      }
      now += below(3) / 2.0;
      AdmissionRequest request = Ask(1 + below(40), static_cast<Rank>(below(3)), absl::StrCat("t", below(3)));
      const auto entered = policy.Enter(id, request, At(now));
      const int expected = dull.Enter(id, request, At(now));
      ASSERT_EQ(entered.ok() ? (*entered ? 1 : 0) : -1, expected) << entered.status();
      refused += expected < 0;
      waited += expected == 0;
      const std::vector<uint64_t> ids = dull.Ids();
      for (const uint64_t left : ids) {
        if (below(6) != 0) continue;
        policy.Leave(left, below(2), At(now));
        dull.Leave(left);
      }
      const std::vector<uint64_t> runs = Runs(policy, now);
      ASSERT_EQ(runs, dull.Advance(At(now)));
      ran_later += static_cast<int>(runs.size());
      ASSERT_TRUE(policy.CheckIntegrity().ok()) << policy.CheckIntegrity();
    }
  }
  EXPECT_GT(refused, 100);
  EXPECT_GT(waited, 100);
  EXPECT_GT(ran_later, 100);
}

// Whatever comes: who has a deadline runs in time or is told, and in the end everybody has run or was told.
TEST(AdmissionPolicyTest, DeadlinesAreKeptOrRefused) {
  for (uint32_t seed = 0; seed < 30; ++seed) {
    std::mt19937 random(seed);
    const auto below = [&random](int n) { return static_cast<int>(random() % static_cast<uint32_t>(n)); };
    AdmissionPolicy policy({});
    policy.SetCapacity({.tokens = 200, .requests = 4, .largest = 200});
    std::map<uint64_t, absl::Time> waiting, running;  // by deadline
    double now = 0;
    for (uint64_t id = 1; id < 300 || !waiting.empty(); ++id) {
      now += below(4) / 8.0;
      if (id < 300) {
        AdmissionRequest request = Ask(1 + below(50), static_cast<Rank>(below(3)));
        request.deadline = At(now + 1 + below(20));
        const auto entered = policy.Enter(id, request, At(now));
        if (entered.ok()) (*entered ? running : waiting)[id] = request.deadline;
      }
      for (auto it = running.begin(); it != running.end();) {
        if (below(5) != 0) {
          ++it;
          continue;
        }
        policy.Leave(it->first, 1, At(now));
        it = running.erase(it);
      }
      for (const AdmissionPolicy::Change& change : policy.Advance(At(now))) {
        ASSERT_EQ(waiting.count(change.id), 1u);
        if (change.status.ok()) {
          ASSERT_LE(At(now), waiting[change.id]);
          running[change.id] = waiting[change.id];
        }
        waiting.erase(change.id);
      }
      for (const auto& [left, deadline] : waiting) ASSERT_GE(deadline, At(now));
      if (!waiting.empty()) {
        ASSERT_GT(policy.NextChange(At(now)), At(now));
      }
      ASSERT_TRUE(policy.CheckIntegrity().ok()) << policy.CheckIntegrity();
    }
  }
}

}  // namespace
}  // namespace clamor
