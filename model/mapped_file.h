// A whole file as read-only memory.
//
// The file must not shrink while it is mapped: reading past its new end is a SIGBUS, which no check here can
// prevent. Writers of model directories therefore replace files by renaming, never in place. Immutable; any
// thread. Tested by tests/model/checkpoint/mapped_file_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace clamor {

class MappedFile {
 public:
  // NOT_FOUND: no such file. INVALID_ARGUMENT: not a regular file, or larger than `max_bytes` (names both
  // sizes). Other failures carry the code of their errno. Links are followed: the hub's own cache is made of
  // them.
  static absl::StatusOr<MappedFile> Open(const std::string& path, uint64_t max_bytes);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::string& path() const { return path_; }
  std::string_view bytes() const { return {data_, size_}; }

 private:
  MappedFile(std::string path, const char* data, size_t size)
      : path_(std::move(path)), data_(data), size_(size) {}

  std::string path_;
  const char* data_ = nullptr;  // null if the file is empty
  size_t size_ = 0;
};

// Takes the pages that lie wholly inside `bytes` out of this process's resident memory; the next read maps
// them again. REQUIRES: `bytes` lies in a MappedFile.
void ReleasePages(std::string_view bytes);

}  // namespace clamor
