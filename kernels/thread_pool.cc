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

}  // namespace

struct ThreadPool::State {
  bool crowded = false;  // constant after construction, as is `workers`
  std::vector<std::thread> workers;

  // Written by the caller before it advances `region`, read by workers after they saw that.
  const absl::FunctionRef<void(int)>* task = nullptr;  // null: stop

  alignas(64) std::atomic<uint64_t> region = 0;  // counts calls of Run
  alignas(64) std::atomic<int> running = 0;      // workers that have not finished the region
  Gate started, finished;

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
  const size_t grains = (count + grain - 1) / grain;
  const size_t pieces = std::min<size_t>(grains, size());
  if (pieces == 1) return fn(0, count);
  Run([&](int worker) {
    const size_t piece = static_cast<size_t>(worker);
    if (piece >= pieces) return;
    fn(grains * piece / pieces * grain, std::min(count, grains * (piece + 1) / pieces * grain));
  });
}

}  // namespace clamor::kernels
