#include "services/worker/scheduler.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "gtest/gtest.h"

namespace clamor {
namespace {

// Hands out the chunk token by token to the oldest that still reads.
std::vector<StepShare> NaivePlan(std::vector<int64_t> unread, int32_t chunk) {
  std::vector<StepShare> shares(unread.size());
  for (size_t i = 0; i < unread.size(); ++i) {
    shares[i] = {.sequence = static_cast<int32_t>(i), .decode = unread[i] == 0};
  }
  for (; chunk > 0; --chunk) {
    const auto reader = std::find_if(unread.begin(), unread.end(), [](int64_t n) { return n > 0; });
    if (reader == unread.end()) break;
    StepShare& share = shares[reader - unread.begin()];
    ++share.prefill;
    share.decode = --*reader == 0;
  }
  std::erase_if(shares, [](const StepShare& s) { return !s.decode && s.prefill == 0; });
  std::stable_partition(shares.begin(), shares.end(), [](const StepShare& s) { return s.prefill == 0; });
  return shares;
}

TEST(Schedule, AllSmallStates) {
  std::vector<StepShare> plan(3);  // whatever it held before
  for (int sequences = 0; sequences <= 4; ++sequences) {
    int states = 1;
    for (int i = 0; i < sequences; ++i) states *= 5;
    for (int state = 0; state < states; ++state) {
      std::vector<int64_t> unread(sequences);
      for (int i = 0, rest = state; i < sequences; ++i, rest /= 5) unread[i] = rest % 5;
      for (int32_t chunk = 1; chunk <= 18; ++chunk) {
        Schedule(unread, chunk, plan);
        const auto expected = NaivePlan(unread, chunk);
        ASSERT_EQ(plan.size(), expected.size());
        for (size_t i = 0; i < plan.size(); ++i) {
          ASSERT_EQ(plan[i].sequence, expected[i].sequence);
          ASSERT_EQ(plan[i].prefill, expected[i].prefill);
          ASSERT_EQ(plan[i].decode, expected[i].decode);
        }
        ScheduleReaders(unread, chunk, plan);
        const auto readers = std::count_if(expected.begin(), expected.end(),
                                           [](const StepShare& share) { return share.prefill > 0; });
        ASSERT_EQ(static_cast<int64_t>(plan.size()), readers);
        for (size_t i = 0, of_all = expected.size() - plan.size(); i < plan.size(); ++i, ++of_all) {
          ASSERT_EQ(plan[i].sequence, expected[of_all].sequence);
          ASSERT_EQ(plan[i].prefill, expected[of_all].prefill);
          ASSERT_EQ(plan[i].decode, expected[of_all].decode);
        }
      }
    }
  }
}

TEST(Schedule, LongPromptsDoNotOverflow) {
  std::vector<StepShare> plan;
  Schedule(std::vector<int64_t>{int64_t{1} << 40, 0}, INT32_MAX, plan);
  ASSERT_EQ(plan.size(), 2u);
  EXPECT_TRUE(plan[0].decode);
  EXPECT_EQ(plan[1].prefill, INT32_MAX);
  EXPECT_FALSE(plan[1].decode);
}

}  // namespace
}  // namespace clamor
