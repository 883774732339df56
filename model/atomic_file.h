// Writes a file that readers see whole or not at all: under a temporary name beside it (`PATH.partial`), then
// synced, renamed and the folder synced, so that what Commit has returned survives a power cut too.
//
// A file that is not committed, for an error or for being dropped, leaves what was at the path untouched and
// nothing beside it; only a process that is killed leaves its `PATH.partial`, which the next writer replaces.
// One process at a time: a lock on the temporary file sees to it.
//
// One thread at a time. Tested by tests/model/checkpoint/atomic_file_test.cc.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace clamor {

class AtomicFile {
 public:
  // `bytes`: what will be appended in all; refused at once (RESOURCE_EXHAUSTED, with both numbers) if the
  // disk has less. ABORTED: another process is writing the same file.
  static absl::StatusOr<AtomicFile> Create(const std::string& path, uint64_t bytes);
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&& other) = delete;
  ~AtomicFile();

  // Errors name the path, the bytes needed in all and those free, and end the attempt: what comes after fails
  // with FAILED_PRECONDITION.
  absl::Status Append(std::string_view bytes);
  absl::Status Commit();

 private:
  AtomicFile(std::string path, uint64_t bytes, int fd);
  absl::Status Fail(int error, const char* action);
  void Discard();

  std::string path_, partial_;
  uint64_t bytes_;
  int fd_;  // -1: committed, failed or moved from
};

// All of it at once.
absl::Status WriteFileAtomically(const std::string& path, std::string_view content);

}  // namespace clamor
