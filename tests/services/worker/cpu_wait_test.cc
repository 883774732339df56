#include "services/worker/cpu_wait.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

namespace clamor {
namespace {

void StayOnOneCpu() {
  cpu_set_t cpus;
  ASSERT_EQ(sched_getaffinity(0, sizeof(cpus), &cpus), 0);
  int cpu = 0;
  while (!CPU_ISSET(cpu, &cpus)) ++cpu;
  CPU_ZERO(&cpus);
  CPU_SET(cpu, &cpus);
  ASSERT_EQ(sched_setaffinity(0, sizeof(cpus), &cpus), 0);
}

TEST(CpuWaitTest, TwoThreadsOnOneCpuWaitForEachOther) {
  if (access("/proc/self/schedstat", R_OK) != 0) GTEST_SKIP() << "this kernel does not count";
  std::atomic<bool> stop = false;
  std::atomic<int> ready = 0;
  double waited[2] = {};
  std::thread threads[2];
  for (int i = 0; i < 2; ++i) {
    threads[i] = std::thread([&, i] {
      StayOnOneCpu();
      const double before = CpuWaitSeconds(gettid());
      ++ready;
      while (!stop) {
      }
      waited[i] = CpuWaitSeconds(gettid()) - before;
    });
  }
  while (ready < 2) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(waited[0] + waited[1], 0.05);
}

TEST(CpuWaitTest, WhoIsNotThereDoesNotWait) { EXPECT_EQ(CpuWaitSeconds(1 << 30), 0); }

}  // namespace
}  // namespace clamor
