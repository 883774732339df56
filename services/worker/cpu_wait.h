// How long a thread was kept waiting for a CPU: what tells an engine that stands still from a machine that is
// busy. Tested by tests/services/worker/cpu_wait_test.cc.
#pragma once

#include <sys/types.h>

namespace clamor {

// Seconds, since the thread of this process began, in which it was ready to run and did not. 0 if there is no
// such thread or the kernel does not count. Reads a file of /proc: some ten microseconds.
double CpuWaitSeconds(pid_t thread);

}  // namespace clamor
