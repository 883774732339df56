#include "services/worker/cpu_wait.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>

namespace clamor {

double CpuWaitSeconds(pid_t thread) {
  char path[64], text[128];
  std::snprintf(path, sizeof(path), "/proc/self/task/%d/schedstat", static_cast<int>(thread));
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  const ssize_t size = read(file, text, sizeof(text) - 1);
  close(file);
  if (size <= 0) return 0;
  text[size] = 0;
  unsigned long long ran = 0, waited = 0;  // nanoseconds
  if (std::sscanf(text, "%llu %llu", &ran, &waited) != 2) return 0;
  return static_cast<double>(waited) * 1e-9;
}

}  // namespace clamor
