#include "model/atomic_file.h"

#include <filesystem>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/model/checkpoint/model_files.h"
#include "tests/model/checkpoint/write_limit.h"

namespace clamor {
namespace {

using test::DiesAfter;
using test::ReadFile;
using test::TempDir;
using test::WriteFile;
using test::WriteLimit;
using ::testing::AllOf;
using ::testing::HasSubstr;

class AtomicFileTest : public ::testing::Test {
 protected:
  // What the folder holds beside the file itself.
  bool NothingElse() const {
    const std::filesystem::directory_iterator files(dir_.path());
    return std::distance(begin(files), end(files)) == (std::filesystem::exists(path_) ? 1 : 0);
  }

  TempDir dir_;
  const std::string path_ = dir_ / "file";
};

TEST_F(AtomicFileTest, AppearsWholeAtCommit) {
  absl::StatusOr<AtomicFile> file = AtomicFile::Create(path_, 6);
  ASSERT_TRUE(file.ok()) << file.status();
  AtomicFile moved = *std::move(file);
  ASSERT_TRUE(moved.Append("abc").ok());
  ASSERT_TRUE(moved.Append("").ok());
  ASSERT_TRUE(moved.Append(std::string_view("d\0f", 3)).ok());
  EXPECT_FALSE(std::filesystem::exists(path_));
  ASSERT_TRUE(moved.Commit().ok());
  EXPECT_EQ(ReadFile(path_), std::string("abcd\0f", 6));
  EXPECT_TRUE(NothingElse());
  EXPECT_TRUE(absl::IsFailedPrecondition(moved.Append("x")));
  EXPECT_TRUE(absl::IsFailedPrecondition(moved.Commit()));
}

TEST_F(AtomicFileTest, TheOldFileStaysUntilCommit) {
  WriteFile(path_, "old");
  {
    absl::StatusOr<AtomicFile> file = AtomicFile::Create(path_, 3);
    ASSERT_TRUE(file.ok()) << file.status();
    ASSERT_TRUE(file->Append("new").ok());
    EXPECT_EQ(ReadFile(path_), "old");
  }
  EXPECT_EQ(ReadFile(path_), "old");
  EXPECT_TRUE(NothingElse());
  ASSERT_TRUE(WriteFileAtomically(path_, "new").ok());
  EXPECT_EQ(ReadFile(path_), "new");
  EXPECT_TRUE(NothingElse());
}

TEST_F(AtomicFileTest, ALeftoverIsReplaced) {
  WriteFile(path_ + ".partial", "much longer than what comes");
  ASSERT_TRUE(WriteFileAtomically(path_, "new").ok());
  EXPECT_EQ(ReadFile(path_), "new");
  EXPECT_TRUE(NothingElse());
}

TEST_F(AtomicFileTest, OneWriterAtATime) {
  absl::StatusOr<AtomicFile> first = AtomicFile::Create(path_, 5);
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE(first->Append("fir").ok());
  const absl::Status second = AtomicFile::Create(path_, 6).status();
  EXPECT_TRUE(absl::IsAborted(second)) << second;
  EXPECT_THAT(std::string(second.message()), HasSubstr(path_ + ": another process is writing it"));
  ASSERT_TRUE(first->Append("st").ok());
  ASSERT_TRUE(first->Commit().ok());
  EXPECT_EQ(ReadFile(path_), "first");
  EXPECT_TRUE(WriteFileAtomically(path_, "second").ok());
}

TEST_F(AtomicFileTest, MoreThanTheDiskHasIsRefusedAtOnce) {
  WriteFile(path_, "old");
  const absl::Status status = AtomicFile::Create(path_, uint64_t{1} << 60).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr(path_), HasSubstr("needs 1152921504606846976 bytes, "), HasSubstr(" free")));
  EXPECT_EQ(ReadFile(path_), "old");
  EXPECT_TRUE(NothingElse());
}

TEST_F(AtomicFileTest, AFailedWriteLeavesTheOldFile) {
  const std::string content = "a new text of thirty-one bytes.";
  WriteFile(path_, "old");
  for (size_t limit = 0; limit < content.size(); ++limit) {
    const WriteLimit full(limit);
    absl::StatusOr<AtomicFile> file = AtomicFile::Create(path_, content.size());
    ASSERT_TRUE(file.ok()) << file.status();
    const absl::Status status = file->Append(content);
    EXPECT_FALSE(status.ok()) << limit;
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(path_ + ": cannot write: needs 31 bytes, "),
                                                     HasSubstr(" free"), HasSubstr("File too large")));
    EXPECT_EQ(ReadFile(path_), "old");
    EXPECT_TRUE(NothingElse());
    EXPECT_TRUE(absl::IsFailedPrecondition(file->Append("x")));
    EXPECT_TRUE(absl::IsFailedPrecondition(file->Commit()));
  }
  const WriteLimit just_enough(content.size());
  EXPECT_TRUE(WriteFileAtomically(path_, content).ok());
}

TEST_F(AtomicFileTest, AProcessThatDiesAtAnyByteLeavesTheOldFile) {
  const std::string content = "a new text of thirty-one bytes.";
  WriteFile(path_, "old");
  for (size_t limit = 0; limit < content.size(); ++limit) {
    EXPECT_TRUE(DiesAfter(limit, [&] { WriteFileAtomically(path_, content).IgnoreError(); })) << limit;
    EXPECT_EQ(ReadFile(path_), "old");
    EXPECT_EQ(ReadFile(path_ + ".partial"), content.substr(0, limit));
  }
  EXPECT_FALSE(DiesAfter(content.size(), [&] { WriteFileAtomically(path_, content).IgnoreError(); }));
  EXPECT_EQ(ReadFile(path_), content);
  EXPECT_TRUE(NothingElse());
}

TEST_F(AtomicFileTest, NoFolder) {
  const std::string path = dir_ / "absent/file";
  const absl::Status status = WriteFileAtomically(path, "x");
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(path));
}

TEST_F(AtomicFileTest, AFolderInItsPlace) {
  std::filesystem::create_directories(path_ + "/full");
  const absl::Status status = WriteFileAtomically(path_, "x");
  EXPECT_THAT(std::string(status.message()), HasSubstr(path_ + ": cannot rename: "));
  EXPECT_TRUE(NothingElse());
}

TEST_F(AtomicFileTest, ALinkInThePlaceOfTheTemporaryFileIsNotFollowed) {
  WriteFile(dir_ / "other", "precious");
  std::filesystem::create_symlink(dir_ / "other", path_ + ".partial");
  EXPECT_FALSE(WriteFileAtomically(path_, "x").ok());
  EXPECT_EQ(ReadFile(dir_ / "other"), "precious");
}

TEST_F(AtomicFileTest, APathWithoutFolderIsInTheCurrentOne) {
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(dir_.path());
  EXPECT_TRUE(WriteFileAtomically("file", "here").ok());
  std::filesystem::current_path(before);
  EXPECT_EQ(ReadFile(path_), "here");
}

}  // namespace
}  // namespace clamor
