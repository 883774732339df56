#include "kernels/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "hwy/cache_control.h"

namespace clamor::kernels {
namespace {

// Longer than the serial gaps between the regions of one step, shorter than anyone would notice on an idle
// machine.
constexpr std::chrono::microseconds kSpin(100);

// Waiting for a condition that becomes true within microseconds, as a rule.
class Gate {
 public:
  // Returns once done() is true: spins for kSpin, then parks. `crowded`: there are more threads than cores,
  // so give the core away instead of pausing on it.
  template <typename Done>
  void Wait(bool crowded, Done done) {
    const auto deadline = std::chrono::steady_clock::now() + kSpin;
    do {
      for (int i = 0; i < 16; ++i) {
        if (done()) return;
        crowded ? std::this_thread::yield() : hwy::Pause();
      }
    } while (std::chrono::steady_clock::now() < deadline);
    std::unique_lock lock(mutex_);
    // Counted before the last look at the condition, as Notify looks at the count after changing it: one of
    // the two sees the other (all four accesses are sequentially consistent).
    parked_.fetch_add(1);
    changed_.wait(lock, done);
    parked_.fetch_sub(1);
  }

  // To be called after done() was made true by a sequentially consistent write.
  void Notify() {
    if (parked_.load() == 0) return;
    { std::lock_guard lock(mutex_); }
    changed_.notify_all();
  }

 private:
  std::atomic<int> parked_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
};

// What a thread has left of its share of a range, in grains. Others may take from its end.
class Share {
 public:
  // By the owner, whose share is empty.
  void Set(uint64_t begin, uint64_t end) { range_.store(begin << 32 | end); }

  // Takes half of what is left, rounded up, from the front or the back. False if nothing is.
  bool Take(bool front, uint64_t& begin, uint64_t& end) {
    uint64_t seen = range_.load();
    for (;;) {
      begin = seen >> 32;
      end = seen & 0xffffffff;
      if (begin >= end) return false;
      const uint64_t half = (end - begin + 1) / 2;
      const uint64_t middle = front ? begin + half : end - half;
      const uint64_t left = front ? middle << 32 | end : begin << 32 | middle;
      if (!range_.compare_exchange_weak(seen, left)) continue;
      (front ? end : begin) = middle;
      return true;
    }
  }

 private:
  alignas(64) std::atomic<uint64_t> range_ = 0;
};

}  // namespace

struct ThreadPool::State {
  bool crowded = false;  // constant after construction, as is `workers`
  std::vector<std::thread> workers;

  // Written by the caller before it advances `region`, read by workers after they saw that.
  const absl::FunctionRef<void(int)>* task = nullptr;  // null: stop

  alignas(64) std::atomic<uint64_t> region = 0;  // counts calls of Run
  alignas(64) std::atomic<int> running = 0;      // workers that have not finished the region
  Gate started, finished;
  std::vector<Share> shares;  // one for each thread

  void Work(int worker) {
    for (uint64_t seen = 0;; ++seen) {
      started.Wait(crowded, [&] { return region.load() != seen; });
      if (task == nullptr) return;
      (*task)(worker);
      if (running.fetch_sub(1) == 1) finished.Notify();
    }
  }

  void Start(const absl::FunctionRef<void(int)>* next) {
    task = next;
    running.store(static_cast<int>(workers.size()));
    region.fetch_add(1);
    started.Notify();
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  state_->shares = std::vector<Share>(threads);
  state_->crowded = static_cast<unsigned>(threads) > std::thread::hardware_concurrency();
  state_->workers.reserve(threads - 1);
  for (int i = 1; i < threads; ++i) {
    state_->workers.emplace_back([state = state_.get(), i] { state->Work(i); });
  }
}

ThreadPool::~ThreadPool() {
  state_->Start(nullptr);
  for (std::thread& worker : state_->workers) worker.join();
}

int ThreadPool::size() const { return static_cast<int>(state_->workers.size()) + 1; }

void ThreadPool::Run(absl::FunctionRef<void(int worker)> fn) {
  if (state_->workers.empty()) return fn(0);
  state_->Start(&fn);
  fn(0);
  state_->finished.Wait(state_->crowded, [&] { return state_->running.load() == 0; });
}

void ThreadPool::ParallelFor(size_t count, size_t grain,
                             absl::FunctionRef<void(size_t begin, size_t end)> fn) {
  if (count == 0) return;
  const uint64_t grains = (count + grain - 1) / grain, threads = state_->shares.size();
  if (threads == 1 || grains == 1) return fn(0, count);
  for (uint64_t i = 0; i < threads; ++i)
    state_->shares[i].Set(grains * i / threads, grains * (i + 1) / threads);
  Run([&](int worker) {
    uint64_t begin, end;
    for (uint64_t i = 0; i < threads;) {
      Share& share = state_->shares[(worker + i) % threads];
      if (!share.Take(i == 0, begin, end)) {
        ++i;
      } else if (i == 0) {
        fn(begin * grain, std::min<size_t>(count, end * grain));
      } else {
        state_->shares[worker].Set(begin, end);
        i = 0;
      }
    }
  });
}

}  // namespace clamor::kernels
