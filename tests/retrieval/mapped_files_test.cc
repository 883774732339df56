#include "retrieval/mapped_files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
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
  void Serve(const MappedFiles::Use& use) { MappedFiles::OfProcess().Serve(&file_, use); }
  std::array<bool, 2> kept() const { return {file_.kept[0], file_.kept[1]}; }
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

TEST(MappedFilesTest, KeepsTheNewestThatFit) {
  constexpr uint64_t kMib = 1 << 20;
  TempFolder folder;
  MappedFiles& files = MappedFiles::OfProcess();
  Mapping old(folder / "a", 9 * kMib), fresh(folder / "b", 3 * kMib);
  const std::array<bool, 2> none = {false, false}, first = {true, false}, both = {true, true};
  EXPECT_EQ(old.kept(), none) << "it is being written";
  old.Serve({.newest = 5, .index_bytes = kMib, .piece_bytes = {3 * kMib, 5 * kMib}});
  EXPECT_EQ(old.kept(), both);
  files.SetLimit(8 * kMib);  // seven and a half of them; one is the index
  EXPECT_EQ(old.kept(), first);
  files.SetLimit(0);
  EXPECT_EQ(old.kept(), none);
  files.SetLimit(8 * kMib);
  fresh.Serve({.newest = 7, .index_bytes = 0, .piece_bytes = {2 * kMib, kMib}});
  EXPECT_EQ(fresh.kept(), both);
  EXPECT_EQ(old.kept(), first);
  {
    Mapping newest(folder / "c", 4 * kMib);
    newest.Serve(
        {.newest = 8, .index_bytes = kMib, .piece_bytes = {kMib, 2 * kMib}});  // five and a half are left
    EXPECT_EQ(newest.kept(), both);
    EXPECT_EQ(fresh.kept(), first);
    EXPECT_EQ(old.kept(), none);
  }
  EXPECT_EQ(fresh.kept(), both);
  EXPECT_EQ(old.kept(), first);
  files.SetLimit(UINT64_MAX);
  EXPECT_EQ(old.kept(), both);
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
