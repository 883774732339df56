// Full disks and sudden deaths, without a disk to fill: the kernel's limit on the size of files.
#pragma once

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>

#include "gtest/gtest.h"

namespace clamor::test {

inline void LimitFileSize(rlim_t bytes) {
  rlimit limit;
  getrlimit(RLIMIT_FSIZE, &limit);
  limit.rlim_cur = bytes;
  setrlimit(RLIMIT_FSIZE, &limit);
}

// While it lives, no file that this process writes grows beyond `bytes`: writes come up short, then fail.
class WriteLimit {
 public:
  explicit WriteLimit(uint64_t bytes) : handler_(signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    LimitFileSize(bytes);
  }
  WriteLimit(const WriteLimit&) = delete;
  ~WriteLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    signal(SIGXFSZ, handler_);
  }

 private:
  const sighandler_t handler_;
  rlimit before_;
};

// Starts a child that runs `body`, and ends without the parent's destructors.
template <typename Body>
pid_t StartChild(Body body) {
  const pid_t child = fork();
  if (child == 0) {
    body();
    _exit(0);
  }
  EXPECT_GT(child, 0);
  return child;
}

// The signal that ended the child, 0 if it ended by itself.
inline int EndOf(pid_t child) {
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  if (WIFSIGNALED(status)) return WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  return 0;
}

// Runs `body` in a process that dies when it has written `bytes` bytes of a file and wants to write more.
// Whether it died.
template <typename Body>
bool DiesAfter(uint64_t bytes, Body body) {
  const int end = EndOf(StartChild([&] {
    const rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    signal(SIGXFSZ, SIG_DFL);
    LimitFileSize(bytes);
    body();
  }));
  EXPECT_TRUE(end == 0 || end == SIGXFSZ) << end;
  return end != 0;
}

}  // namespace clamor::test
