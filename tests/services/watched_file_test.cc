#include "services/watched_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <vector>

namespace clamor {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class WatchedFileTest : public ::testing::Test {
 protected:
  WatchedFileTest() : path_(::testing::TempDir() + "watched-" + std::to_string(getpid())) {}
  ~WatchedFileTest() override { std::filesystem::remove(path_); }
  void Write(const std::string& content) { std::ofstream(path_, std::ios::binary) << content; }
  absl::StatusOr<std::unique_ptr<WatchedFile>> Open() {
    return WatchedFile::Open(
        "--words", path_,
        [this](absl::string_view content) -> absl::Status {
          if (content == "bad") return absl::InvalidArgumentError("line 1 is bad");
          absl::MutexLock lock(&mu_);
          taken_.emplace_back(content);
          return absl::OkStatus();
        },
        absl::Milliseconds(5));
  }
  // Whether `count` contents have been taken, within ten seconds.
  bool Taken(size_t count) {
    const auto enough = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return taken_.size() >= count; };
    absl::MutexLock lock(&mu_);
    return mu_.AwaitWithTimeout(absl::Condition(&enough), absl::Seconds(10));
  }

  const std::string path_;
  absl::Mutex mu_;
  std::vector<std::string> taken_ ABSL_GUARDED_BY(mu_);
};

TEST_F(WatchedFileTest, TakesWhatIsThereAndThenEveryChange) {
  Write("one");
  auto file = Open();
  ASSERT_TRUE(file.ok()) << file.status();
  Write("two");
  ASSERT_TRUE(Taken(2));
  std::filesystem::remove(path_);  // gone for a while: what was there stays in force
  Write("bad");
  Write("three");
  ASSERT_TRUE(Taken(3));
  file->reset();
  EXPECT_THAT(taken_, ElementsAre("one", "two", "three"));
}

TEST_F(WatchedFileTest, FirstContentMustBeGood) {
  EXPECT_THAT(std::string(Open().status().message()), AllOf(HasSubstr("--words"), HasSubstr(path_)));
  Write("bad");
  EXPECT_THAT(std::string(Open().status().message()), HasSubstr("line 1 is bad"));
  Write(std::string((4 << 20) + 1, 'x'));
  EXPECT_THAT(std::string(Open().status().message()), HasSubstr("over 4194304 bytes"));
}

}  // namespace
}  // namespace clamor
