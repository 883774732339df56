#include "kernels/thread_pool.h"

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace clamor::kernels {
namespace {

TEST(ThreadPoolTest, RunCallsEachWorkerOnceAndTheCallerIsZero) {
  for (int threads = 1; threads <= 8; ++threads) {
    ThreadPool pool(threads);
    ASSERT_EQ(pool.size(), threads);
    std::vector<int> calls(threads, 0);
    std::vector<std::thread::id> ids(threads);
    pool.Run([&](int worker) {
      ++calls[worker];
      ids[worker] = std::this_thread::get_id();
    });
    EXPECT_EQ(calls, std::vector<int>(threads, 1));
    EXPECT_EQ(ids[0], std::this_thread::get_id());
    for (int i = 1; i < threads; ++i) EXPECT_NE(ids[i], ids[i - 1]);
  }
}

TEST(ThreadPoolTest, ParallelForCoversTheRangeOnceInMultiplesOfTheGrain) {
  for (int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    for (size_t count = 0; count <= 70; ++count) {
      for (size_t grain : {1, 2, 7, 16, 100}) {
        std::vector<int> seen(count, 0);
        std::atomic<int> pieces = 0;
        pool.ParallelFor(count, grain, [&](size_t begin, size_t end) {
          ++pieces;
          EXPECT_LT(begin, end);
          EXPECT_EQ(begin % grain, 0u);
          EXPECT_TRUE(end % grain == 0 || end == count);
          for (size_t i = begin; i < end; ++i) ++seen[i];
        });
        EXPECT_EQ(seen, std::vector<int>(count, 1));
        EXPECT_LE(pieces, threads);
        EXPECT_EQ(pieces, std::min<int>(threads, (count + grain - 1) / grain));
      }
    }
  }
}

// Plain variables written in one region and read by other threads in the next: under TSan this is the proof
// that a region's end happens before the next one's start.
TEST(ThreadPoolTest, ManyShortRegionsWithAndWithoutParking) {
  for (int threads : {2, 3, 9}) {  // 9: more than the cores of a small machine
    ThreadPool pool(threads);
    std::vector<int64_t> values(threads, 0);
    int64_t expected = 0;
    for (int round = 0; round < 2000; ++round) {
      const int64_t shift = round % threads;
      pool.Run([&](int worker) { values[(worker + shift) % threads] += worker; });
      expected += int64_t{threads} * (threads - 1) / 2;
      if (round % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));  // let workers park
    }
    int64_t sum = 0;
    for (int64_t v : values) sum += v;
    EXPECT_EQ(sum, expected);
  }
}

TEST(ThreadPoolTest, TheCallerParksWhileAWorkerIsSlow) {
  ThreadPool pool(2);
  std::atomic<bool> done = false;
  pool.Run([&](int worker) {
    if (worker == 0) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    done = true;
  });
  EXPECT_TRUE(done);
}

TEST(ThreadPoolTest, DestructionIsPromptWhetherWorkersSpinOrSleep) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 50; ++i) {
    ThreadPool pool(3);
    if (i % 2 == 0) pool.Run([](int) {});
    if (i % 10 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

}  // namespace
}  // namespace clamor::kernels
