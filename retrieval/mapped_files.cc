#include "retrieval/mapped_files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>

namespace clamor::retrieval {

MappedFiles& MappedFiles::OfProcess() {
  static MappedFiles* const files = new MappedFiles;  // outlives every segment
  return *files;
}

void MappedFiles::Add(std::span<std::byte> range) {
  const std::lock_guard lock(mu_);
  ranges_.push_back(range);
}

void MappedFiles::Remove(std::span<std::byte> range) {
  const std::lock_guard lock(mu_);
  const auto found = std::ranges::find(ranges_, range.data(), [](auto each) { return each.data(); });
  if (found == ranges_.end()) return;
  *found = ranges_.back();
  ranges_.pop_back();
}

uint64_t MappedFiles::ResidentBytes() {
  static const int statm = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  std::array<char, 128> text;
  const ssize_t size = statm < 0 ? -1 : pread(statm, text.data(), text.size() - 1, 0);
  if (size <= 0) return 0;
  text[static_cast<size_t>(size)] = '\0';
  // Pages in all, in memory, and those of the latter that are of files.
  char* at = text.data();
  uint64_t pages = 0;
  for (int field = 0; field < 3; ++field) pages = std::strtoull(at, &at, 10);
  static const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return pages * page;
}

void MappedFiles::Look() {
  if (ResidentBytes() <= limit_) return;
  const std::unique_lock lock(mu_, std::try_to_lock);
  if (lock.owns_lock()) Drop();  // else another thread is at it
}

void MappedFiles::Drop() {
  // Once around at most.
  for (size_t ends = 0; ends <= ranges_.size() && !ranges_.empty();) {
    if (hand_ >= ranges_.size() || offset_ >= ranges_[hand_].size()) {
      hand_ = hand_ + 1 < ranges_.size() ? hand_ + 1 : 0;
      offset_ = 0;
      ++ends;
    }
    const std::span<std::byte> rest = ranges_[hand_].subspan(offset_);
    madvise(rest.data(), std::min(rest.size(), kSlice), MADV_DONTNEED);
    offset_ += kSlice;
    if (ResidentBytes() <= limit_) return;
  }
}

}  // namespace clamor::retrieval
