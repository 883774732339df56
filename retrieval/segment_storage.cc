#include "retrieval/segment_storage.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"

namespace clamor::retrieval {
namespace {

constexpr char kTemporary[] = ".tmp";
constexpr size_t kReadAhead = 128 << 10;  // the kernel reads no more for one call, as it is set up everywhere

size_t PageBytes() {
  static const auto bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

absl::Status Errno(int error, const std::string& path) {
  const std::string message = absl::StrCat(path, ": ", std::system_category().message(error));
  if (error == ENOSPC || error == EDQUOT || error == ENOMEM || error == EMFILE || error == ENFILE) {
    return absl::ResourceExhaustedError(message);
  }
  return absl::ErrnoToStatus(error, path);
}

absl::Status SyncFolderOf(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path();
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return Errno(errno, folder);
  const auto closer = absl::MakeCleanup([fd] { close(fd); });
  return fsync(fd) == 0 ? absl::OkStatus() : Errno(errno, folder);
}

}  // namespace

SegmentStorage SegmentStorage::OnHeap(size_t bytes) {
  SegmentStorage storage;
  storage.heap_ = std::make_unique_for_overwrite<std::byte[]>(bytes);
  storage.data_ = storage.heap_.get();
  storage.size_ = bytes;
  return storage;
}

absl::StatusOr<SegmentStorage> SegmentStorage::CreateFile(std::string path, size_t bytes) {
  SegmentStorage storage;
  storage.path_ = std::move(path);
  const std::string temporary = absl::StrCat(storage.path_, kTemporary);
  storage.fd_ = open(temporary.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (storage.fd_ < 0) return Errno(errno, temporary);
  storage.unsealed_file_ = true;
  storage.size_ = bytes;
  // A mapped write into a hole of a full disk would be a SIGBUS: take the room first.
  if (const int error = posix_fallocate(storage.fd_, 0, static_cast<off_t>(bytes)); error != 0)
    return Errno(error, temporary);
  CLAMOR_RETURN_IF_ERROR(storage.Map(PROT_READ | PROT_WRITE));
  return storage;
}

absl::StatusOr<SegmentStorage> SegmentStorage::OpenFile(std::string path) {
  SegmentStorage storage;
  storage.path_ = std::move(path);
  storage.fd_ = open(storage.path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (storage.fd_ < 0) return Errno(errno, storage.path_);
  struct stat info;
  if (fstat(storage.fd_, &info) != 0) return Errno(errno, storage.path_);
  storage.size_ = static_cast<size_t>(info.st_size);
  if (storage.size_ == 0) return absl::DataLossError(absl::StrCat(storage.path_, ": is empty"));
  CLAMOR_RETURN_IF_ERROR(storage.Map(PROT_READ));
  // Lookups jump about, and find pages the faster, the fewer there are. Not every kernel has large ones for
  // files. While a file is written they would bring in more of it than the limit allows.
  madvise(storage.data_, storage.size_, MADV_HUGEPAGE);
  return storage;
}

absl::Status SegmentStorage::Map(int protection) {
  void* mapped = mmap(nullptr, size_, protection, MAP_SHARED, fd_, 0);
  if (mapped == MAP_FAILED) return Errno(errno, path_);
  data_ = static_cast<std::byte*>(mapped);
  mapped_ = std::make_unique<MappedFiles::File>(std::span(data_, size_));
  MappedFiles::OfProcess().Add(mapped_.get());
  if (size_ < MappedFiles::OfProcess().small_bytes()) close(std::exchange(fd_, -1));
  return absl::OkStatus();
}

void SegmentStorage::Serve(const MappedFiles::Use& use) const {
  if (mapped_ == nullptr) return;
  // Lookups jump about: what lies beside a page that is read from the disk is not worth reading.
  madvise(data_, size_, MADV_RANDOM);
  if (fd_ < 0) return;
  posix_fadvise(fd_, 0, 0, POSIX_FADV_RANDOM);
  MappedFiles::OfProcess().Serve(mapped_.get(), use);
}

SegmentStorage::SegmentStorage(SegmentStorage&& other) noexcept
    : heap_(std::move(other.heap_)),
      mapped_(std::move(other.mapped_)),
      fd_(std::exchange(other.fd_, -1)),
      data_(std::exchange(other.data_, nullptr)),
      size_(other.size_),
      path_(std::move(other.path_)),
      unsealed_file_(std::exchange(other.unsealed_file_, false)) {}

SegmentStorage::~SegmentStorage() {
  if (mapped_ != nullptr) {
    MappedFiles::OfProcess().Remove(mapped_.get());
    munmap(data_, size_);
  }
  if (fd_ >= 0) close(fd_);
  if (unsealed_file_) unlink(absl::StrCat(path_, kTemporary).c_str());
}

absl::Status SegmentStorage::Seal() {
  if (!unsealed_file_) return absl::OkStatus();
  const std::string temporary = absl::StrCat(path_, kTemporary);
  if (msync(data_, size_, MS_SYNC) != 0) return Errno(errno, temporary);
  if (mprotect(data_, size_, PROT_READ) != 0) return Errno(errno, temporary);
  if (rename(temporary.c_str(), path_.c_str()) != 0) return Errno(errno, path_);
  unsealed_file_ = false;
  Forget(0, size_);
  return SyncFolderOf(path_);
}

void SegmentStorage::Forget(size_t offset, size_t bytes) const {
  if (heap_ != nullptr) return;
  const size_t page = PageBytes();
  const size_t begin = (offset + page - 1) / page * page, end = std::min(offset + bytes, size_) / page * page;
  if (begin < end) madvise(data_ + begin, end - begin, MADV_DONTNEED);
}

const std::byte* SegmentStorage::Read(size_t piece, std::span<const std::byte> part,
                                      std::byte* buffer) const {
  if (Direct(piece)) return part.data();
  const off_t begin = part.data() - data_;
  size_t done = 0;
  while (done < part.size()) {
    const ssize_t some = pread(fd_, buffer + done, part.size() - done, begin + static_cast<off_t>(done));
    if (some < 0 && errno == EINTR) continue;
    if (some <= 0) {
      std::fill_n(buffer, part.size(), std::byte{0});
      break;
    }
    done += static_cast<size_t>(some);
  }
  return buffer;
}

bool SegmentStorage::Kept(size_t offset) const {
  if (fd_ < 0) return false;
  const MappedFiles::Use& use = mapped_->use;
  if (use.newest == 0 || offset < use.index_bytes) return true;
  return Direct(offset < use.index_bytes + use.piece_bytes[0] ? 0 : 1);
}

void SegmentStorage::ReadAhead(size_t offset, size_t bytes) const {
  if (heap_ != nullptr) return;
  const size_t end = std::min(offset + bytes, size_);
  for (size_t at = offset / PageBytes() * PageBytes(); at < end; at += kReadAhead) {
    const size_t some = std::min(kReadAhead, end - at);
    // Large pages come through the mapping alone.
    if (Kept(at) && madvise(data_ + at, some, MADV_POPULATE_READ) == 0) continue;
    madvise(data_ + at, some, MADV_WILLNEED);
  }
}

}  // namespace clamor::retrieval
