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
        std::vector<std::atomic<int>> seen(count);
        pool.ParallelFor(count, grain, [&](size_t begin, size_t end) {
          EXPECT_LT(begin, end);
          EXPECT_EQ(begin % grain, 0u);
          EXPECT_TRUE(end % grain == 0 || end == count);
          for (size_t i = begin; i < end; ++i) ++seen[i];
        });
        for (size_t i = 0; i < count; ++i) ASSERT_EQ(seen[i], 1) << i << " of " << count;
      }
    }
  }
}

TEST(ThreadPoolTest, WhoIsDoneHelpsWhoIsSlow) {
  constexpr size_t kCount = 64;
  ThreadPool pool(2);
  std::atomic<size_t> done = 0;
  size_t done_by_caller = 0;  // the first half is its share
  const auto caller = std::this_thread::get_id();
  pool.ParallelFor(kCount, 1, [&](size_t begin, size_t end) {
    if (std::this_thread::get_id() == caller) {
      done_by_caller += end - begin;
      // Half of its share in one piece: the other thread can do all the rest meanwhile.
      while (done < kCount - done_by_caller) std::this_thread::yield();
    } else {
      done += end - begin;
    }
  });
  EXPECT_EQ(done + done_by_caller, kCount);
  EXPECT_EQ(done_by_caller, kCount / 4);
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
