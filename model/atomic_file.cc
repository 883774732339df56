#include "model/atomic_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"

namespace clamor {
namespace {

std::string FolderOf(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

// What the disk of `path` still has for us; nothing if it does not say (some network file systems).
std::optional<uint64_t> FreeBytes(const std::string& path) {
  struct statvfs info;
  if (statvfs(FolderOf(path).c_str(), &info) != 0 || info.f_blocks == 0) return std::nullopt;
  return uint64_t{info.f_bavail} * info.f_frsize;
}

absl::Status Error(int error, const std::string& path, const char* action, uint64_t bytes) {
  const std::optional<uint64_t> free = FreeBytes(path);
  return absl::ErrnoToStatus(error,
                             absl::StrCat(path, ": cannot ", action, ": needs ", bytes, " bytes, ",
                                          free.has_value() ? absl::StrCat(*free) : "unknown", " free"));
}

// Whether `path` is still the file that is open as `fd`.
bool IsFile(int fd, const std::string& path) {
  struct stat open_file, named;
  return fstat(fd, &open_file) == 0 && lstat(path.c_str(), &named) == 0 && open_file.st_dev == named.st_dev &&
         open_file.st_ino == named.st_ino;
}

// A new name is durable once its folder is.
int SyncFolder(const std::string& folder) {
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return errno;
  const int error = fsync(fd) == 0 ? 0 : errno;
  close(fd);
  return error;
}

}  // namespace

AtomicFile::AtomicFile(std::string path, uint64_t bytes, int fd)
    : path_(std::move(path)), partial_(absl::StrCat(path_, ".partial")), bytes_(bytes), fd_(fd) {}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      partial_(std::move(other.partial_)),
      bytes_(other.bytes_),
      fd_(std::exchange(other.fd_, -1)) {}

AtomicFile::~AtomicFile() { Discard(); }

absl::StatusOr<AtomicFile> AtomicFile::Create(const std::string& path, uint64_t bytes) {
  const std::string partial = absl::StrCat(path, ".partial");
  const int fd = open(partial.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
  if (fd < 0) return Error(errno, path, "create", bytes);
  // The lock goes with the process, so a leftover is free. Where a file system has no locks, we go on
  // without. Whoever had it before may have renamed the file since we opened it: then it is no longer ours to
  // truncate.
  if ((flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) || !IsFile(fd, partial)) {
    close(fd);
    return absl::AbortedError(absl::StrCat(path, ": another process is writing it (", partial, ")"));
  }
  AtomicFile file(path, bytes, fd);
  if (ftruncate(fd, 0) != 0) return file.Fail(errno, "truncate");
  if (const std::optional<uint64_t> free = FreeBytes(path); free.has_value() && *free < bytes)
    return file.Fail(ENOSPC, "write");
  return file;
}

absl::Status AtomicFile::Append(std::string_view bytes) {
  if (fd_ < 0) return absl::FailedPreconditionError(absl::StrCat(path_, ": is not being written"));
  while (!bytes.empty()) {
    constexpr size_t kMaxWrite = 64 << 20;
    const ssize_t written = write(fd_, bytes.data(), std::min(bytes.size(), kMaxWrite));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return Fail(errno, "write");
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status AtomicFile::Commit() {
  if (fd_ < 0) return absl::FailedPreconditionError(absl::StrCat(path_, ": is not being written"));
  if (fsync(fd_) != 0) return Fail(errno, "sync");
  if (rename(partial_.c_str(), path_.c_str()) != 0) return Fail(errno, "rename");
  close(std::exchange(fd_, -1));  // the data is on the disk: nothing left to fail
  const int error = SyncFolder(FolderOf(path_));
  return error == 0 ? absl::OkStatus() : Error(error, path_, "sync the folder", bytes_);
}

// Removes the file first: its own bytes are not what the disk lacks.
absl::Status AtomicFile::Fail(int error, const char* action) {
  Discard();
  return Error(error, path_, action, bytes_);
}

void AtomicFile::Discard() {
  if (fd_ < 0) return;
  unlink(partial_.c_str());  // under the lock
  close(std::exchange(fd_, -1));
}

absl::Status WriteFileAtomically(const std::string& path, std::string_view content) {
  CLAMOR_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path, content.size()));
  CLAMOR_RETURN_IF_ERROR(file.Append(content));
  return file.Commit();
}

}  // namespace clamor
