#include "retrieval/change_log.h"

#include <thread>

#include "gtest/gtest.h"

namespace clamor::retrieval {
namespace {

constexpr std::chrono::milliseconds kAtOnce{0}, kLong{60000};

std::string Ids(const ChangeLog::Slice& slice) {
  std::string ids;
  for (const ChangeLog::Change& change : slice.changes) ids += change.id;
  return ids;
}

TEST(ChangeLogTest, ReadsInOrderUntilItForgets) {
  ChangeLog log(4);
  const uint64_t start = log.next();
  EXPECT_EQ(Ids(*log.Read(start, 10, kAtOnce)), "");
  for (const char* id : {"a", "b", "c"}) log.Add({{"t", "f"}, id});
  auto slice = log.Read(start, 2, kAtOnce);
  ASSERT_TRUE(slice.ok()) << slice.status();
  EXPECT_EQ(Ids(*slice), "ab");
  EXPECT_TRUE(slice->more);
  slice = log.Read(slice->next, 2, kAtOnce);
  EXPECT_EQ(Ids(*slice), "c");
  EXPECT_FALSE(slice->more);
  EXPECT_EQ(slice->next, log.next());
  for (const char* id : {"d", "e"}) log.Add({{"t", "f"}, id});
  EXPECT_EQ(log.Read(start, 10, kAtOnce).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(log.Read(log.next() + 1, 10, kAtOnce).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(Ids(*log.Read(start + 1, 10, kAtOnce)), "bcde");
}

TEST(ChangeLogTest, PositionsOfAnEarlierProcessAreForgotten) {
  const ChangeLog earlier(4);
  const ChangeLog later(4);
  EXPECT_EQ(later.Read(earlier.next(), 1, kAtOnce).status().code(), absl::StatusCode::kOutOfRange);
}

TEST(ChangeLogTest, WaitsForTheNext) {
  ChangeLog log(4);
  const uint64_t next = log.next();
  std::thread later([&] { log.Add({{"t", "f"}, "b"}); });
  EXPECT_EQ(Ids(*log.Read(next, 1, kLong)), "b");
  later.join();
}

}  // namespace
}  // namespace clamor::retrieval
