#include "retrieval/mapped_files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "gtest/gtest.h"
#include "tests/retrieval/test_support.h"

namespace clamor::retrieval {
namespace {

constexpr size_t kPage = 4096;

// A file of `bytes`, mapped and known to MappedFiles; each page holds its number.
class Mapping {
 public:
  Mapping(const std::string& path, size_t bytes) {
    const int fd = open(path.c_str(), O_RDWR | O_CREAT, 0600);
    EXPECT_EQ(ftruncate(fd, static_cast<off_t>(bytes)), 0);
    void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    EXPECT_NE(mapped, MAP_FAILED);
    close(fd);
    file_.range = range_ = {static_cast<std::byte*>(mapped), bytes};
    MappedFiles::OfProcess().Add(&file_);
  }
  ~Mapping() {
    MappedFiles::OfProcess().Remove(&file_);
    munmap(range_.data(), range_.size());
  }
  void Serve(uint64_t index_bytes = 0) { MappedFiles::OfProcess().Serve(&file_, index_bytes); }
  bool kept() const { return file_.kept; }
  void Write() {
    for (size_t at = 0; at < range_.size(); at += kPage) *reinterpret_cast<size_t*>(range_.data() + at) = at;
  }
  bool Holds() const {
    for (size_t at = 0; at < range_.size(); at += kPage) {
      if (*reinterpret_cast<const size_t*>(range_.data() + at) != at) return false;
    }
    return true;
  }

 private:
  std::span<std::byte> range_;
  MappedFiles::File file_;
};

void LookOften() {
  for (int i = 0; i < 100; ++i) MappedFiles::OfProcess().Look();
}

TEST(MappedFilesTest, KeepsToItsLimitAndLosesNothing) {
  TempFolder folder;
  MappedFiles& files = MappedFiles::OfProcess();
  const uint64_t before = MappedFiles::ResidentBytes();
  ASSERT_GT(before, 0u);
  Mapping a(folder / "a", 24 << 20), b(folder / "b", (9 << 20) + kPage);
  a.Write();
  b.Write();
  EXPECT_GT(MappedFiles::ResidentBytes(), before + (30 << 20));
  LookOften();
  EXPECT_GT(MappedFiles::ResidentBytes(), before + (30 << 20)) << "no limit, nothing is dropped";

  files.SetLimit(before + (16 << 20));
  LookOften();
  EXPECT_LT(MappedFiles::ResidentBytes(), before + (20 << 20));
  EXPECT_TRUE(a.Holds() && b.Holds());
  LookOften();
  EXPECT_LT(MappedFiles::ResidentBytes(), before + (20 << 20)) << "read again, dropped again";
  files.SetLimit(1);  // cannot be kept: all goes that may go, and it returns
  LookOften();
  EXPECT_LT(MappedFiles::ResidentBytes(), before + (4 << 20));
  EXPECT_TRUE(a.Holds() && b.Holds());
  files.SetLimit(UINT64_MAX);
}

TEST(MappedFilesTest, KeepsTheSmallestThatFit) {
  TempFolder folder;
  MappedFiles& files = MappedFiles::OfProcess();
  Mapping large(folder / "a", 5 << 20), small(folder / "b", 1 << 20);
  EXPECT_FALSE(large.kept() || small.kept()) << "they are being written";
  large.Serve();
  EXPECT_TRUE(large.kept());
  files.SetLimit(6 << 20);  // seven eighths of it are 5.25 MiB
  EXPECT_TRUE(large.kept());
  small.Serve();
  EXPECT_TRUE(small.kept());
  EXPECT_FALSE(large.kept());
  {
    Mapping middle(folder / "c", 4 << 20);
    middle.Serve();
    EXPECT_TRUE(middle.kept() && small.kept());
    files.SetLimit(4 << 20);
    EXPECT_FALSE(middle.kept());
    EXPECT_TRUE(small.kept());
  }
  files.SetLimit(UINT64_MAX);
  EXPECT_TRUE(large.kept() && small.kept());
  files.SetLimit(7 << 20);  // 6.125 MiB
  EXPECT_TRUE(large.kept() && small.kept());
  Mapping indexed(folder / "d", 9 << 20);
  indexed.Serve(1 << 20);
  EXPECT_TRUE(small.kept());
  EXPECT_FALSE(large.kept() || indexed.kept()) << "its index is read in any case";
  files.SetLimit(UINT64_MAX);
}

TEST(MappedFilesTest, RangesComeAndGo) {
  TempFolder folder;
  MappedFiles::OfProcess().SetLimit(1);
  for (int round = 0; round < 20; ++round) {
    Mapping a(folder / "a", 5 << 20), b(folder / "b", kPage);
    a.Write();
    b.Write();
    LookOften();
    EXPECT_TRUE(a.Holds() && b.Holds());
  }
  MappedFiles::OfProcess().SetLimit(UINT64_MAX);
}

}  // namespace
}  // namespace clamor::retrieval
