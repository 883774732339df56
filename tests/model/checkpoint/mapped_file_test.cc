#include "model/mapped_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <numeric>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/model/checkpoint/model_files.h"

namespace clamor {
namespace {

using test::TempDir;
using test::WriteFile;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr uint64_t kNoLimit = ~uint64_t{0};

std::string Message(const absl::StatusOr<MappedFile>& file) { return std::string(file.status().message()); }

// Resident bytes of all mappings of `path`.
int64_t Resident(const std::string& path) {
  std::ifstream maps("/proc/self/smaps");
  std::string line;
  bool ours = false;
  int64_t kib = 0;
  while (std::getline(maps, line)) {
    if (line.find('-') < line.find(':')) ours = line.ends_with(path);
    if (ours && line.starts_with("Rss:")) kib += std::stoll(line.substr(4));
  }
  return kib * 1024;
}

TEST(MappedFile, HoldsTheBytes) {
  TempDir dir;
  const std::string text("a\0b\xff", 4);
  WriteFile(dir / "f", text);
  absl::StatusOr<MappedFile> file = MappedFile::Open(dir / "f", 4);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->bytes(), text);
  EXPECT_EQ(file->path(), dir / "f");
}

TEST(MappedFile, MovesItsMapping) {
  TempDir dir;
  WriteFile(dir / "a", "first");
  WriteFile(dir / "b", "second");
  MappedFile a = *MappedFile::Open(dir / "a", kNoLimit);
  MappedFile b = *MappedFile::Open(dir / "b", kNoLimit);
  MappedFile moved(std::move(a));
  EXPECT_EQ(moved.bytes(), "first");
  moved = std::move(b);
  EXPECT_EQ(moved.bytes(), "second");
  EXPECT_EQ(moved.path(), dir / "b");
}

TEST(MappedFile, AnEmptyFileHasNoBytes) {
  TempDir dir;
  WriteFile(dir / "f", "");
  absl::StatusOr<MappedFile> file = MappedFile::Open(dir / "f", 0);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->bytes(), "");
}

TEST(MappedFile, FollowsLinks) {
  TempDir dir;
  WriteFile(dir / "blob", "text");
  std::filesystem::create_symlink("blob", dir / "link");
  EXPECT_EQ(MappedFile::Open(dir / "link", kNoLimit)->bytes(), "text");
}

TEST(MappedFile, RefusesWhatIsNotAFileOfTheSize) {
  TempDir dir;
  EXPECT_TRUE(absl::IsNotFound(MappedFile::Open(dir / "absent", kNoLimit).status()));
  EXPECT_THAT(Message(MappedFile::Open(dir / "absent", kNoLimit)), HasSubstr(dir / "absent"));
  EXPECT_THAT(Message(MappedFile::Open(dir.path(), kNoLimit)),
              HasSubstr(dir.path() + ": not a regular file"));
  WriteFile(dir / "f", "12345");
  EXPECT_THAT(Message(MappedFile::Open(dir / "f", 4)), HasSubstr((dir / "f") + ": has 5 bytes, limit is 4"));
}

TEST(MappedFile, APipeIsRefusedWithoutWaitingForAWriter) {
  TempDir dir;
  ASSERT_EQ(mkfifo((dir / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(Message(MappedFile::Open(dir / "pipe", kNoLimit)), HasSubstr("not a regular file"));
}

TEST(MappedFile, ReleasedPagesLeaveMemoryAndComeBack) {
  TempDir dir;
  constexpr size_t kBytes = 1 << 20;
  WriteFile(dir / "f", std::string(kBytes, 'x'));
  const MappedFile file = *MappedFile::Open(dir / "f", kNoLimit);
  const auto sum = [&] { return std::accumulate(file.bytes().begin(), file.bytes().end(), int64_t{0}); };
  EXPECT_EQ(sum(), int64_t{kBytes} * 'x');
  EXPECT_EQ(Resident(file.path()), int64_t{kBytes});
  ReleasePages(
      file.bytes().substr(1, kBytes - 2));  // but not the first and the last page, which hold other bytes
  EXPECT_EQ(Resident(file.path()), 2 * sysconf(_SC_PAGESIZE));
  EXPECT_EQ(sum(), int64_t{kBytes} * 'x');
  ReleasePages(file.bytes().substr(10, 20));
  ReleasePages({});
}

}  // namespace
}  // namespace clamor
