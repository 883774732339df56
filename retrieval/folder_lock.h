// A folder that one process at a time may use.
//
// Tested by tests/retrieval/suffix_store_test.cc.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace clamor::retrieval {

// Holds `folder`/LOCK until it is destroyed or the process ends, however it ends.
class FolderLock {
 public:
  // FAILED_PRECONDITION if it is held, by this process or another.
  static absl::StatusOr<FolderLock> Acquire(const std::string& folder);
  FolderLock(FolderLock&& other) noexcept;
  FolderLock& operator=(FolderLock&&) = delete;
  ~FolderLock();

 private:
  explicit FolderLock(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace clamor::retrieval
