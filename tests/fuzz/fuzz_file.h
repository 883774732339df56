// Bytes as a file, for what reads files only.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <string_view>

namespace clamor {

// The path of a file in memory that holds `bytes` until the next call.
inline const std::string& FuzzFile(std::string_view bytes) {
  static const int file = memfd_create("fuzz", 0);
  static const std::string& path = *new std::string("/proc/self/fd/" + std::to_string(file));
  if (ftruncate(file, 0) != 0 ||
      pwrite(file, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
    std::abort();
  return path;
}

}  // namespace clamor
