#include "retrieval/mapped_files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <functional>

namespace clamor::retrieval {

MappedFiles& MappedFiles::OfProcess() {
  static MappedFiles* const files = new MappedFiles;  // outlives every segment
  return *files;
}

void MappedFiles::Add(File* file) {
  const std::lock_guard lock(mu_);
  files_.push_back(file);
}

void MappedFiles::Remove(File* file) {
  const std::lock_guard lock(mu_);
  std::erase(files_, file);
  if (file->use.newest > 0) Choose();  // else it was not among them
}

void MappedFiles::Serve(File* file, const Use& use) {
  const std::lock_guard lock(mu_);
  file->use = use;
  Choose();
}

void MappedFiles::SetLimit(uint64_t bytes) {
  const std::lock_guard lock(mu_);
  limit_ = bytes;
  Choose();
}

void MappedFiles::Choose() {
  std::vector<File*> newest_first = files_;
  std::ranges::sort(newest_first, std::greater(), [](const File* file) { return file->use.newest; });
  uint64_t room = limit_ - limit_ / 16;
  for (const File* file : files_) room -= std::min(room, file->use.index_bytes);
  for (size_t piece = 0; piece < kPieces; ++piece) {
    for (File* file : newest_first) {
      const uint64_t bytes = file->use.piece_bytes[piece];
      file->kept[piece] = bytes > 0 && bytes <= room;
      if (file->kept[piece]) room -= bytes;
    }
  }
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
  for (size_t ends = 0; ends <= files_.size() && !files_.empty();) {
    if (hand_ >= files_.size() || offset_ >= files_[hand_]->range.size()) {
      hand_ = hand_ + 1 < files_.size() ? hand_ + 1 : 0;
      offset_ = 0;
      ++ends;
    }
    const std::span<std::byte> rest = files_[hand_]->range.subspan(offset_);
    madvise(rest.data(), std::min(rest.size(), kSlice), MADV_DONTNEED);
    offset_ += kSlice;
    if (ResidentBytes() <= limit_) return;
  }
}

}  // namespace clamor::retrieval
