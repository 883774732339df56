// A fixed set of threads for parallel regions that last microseconds.
//
// Workers spin for a bounded time after each region and then park, because a futex wake-up costs more than
// many whole regions here (0.15 us against 100-270 us, measured on a virtual machine).
//
// Threads: one thread at a time may call Run or ParallelFor; the functions must not call back into the pool.
// Tested by tests/kernels/thread_pool_test.cc.
#pragma once

#include <cstddef>
#include <memory>

#include "absl/functional/function_ref.h"

namespace clamor::kernels {

class ThreadPool {
 public:
  // `threads` >= 1 counts the calling thread, which always works too: ThreadPool(1) starts none.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;

  // Calls fn(i) once for each i in [0, size()), each on its own thread, fn(0) on the caller. Returns when all
  // returned.
  void Run(absl::FunctionRef<void(int worker)> fn);

  // Calls fn(begin, end) for contiguous pieces of [0, count), boundaries at multiples of `grain`, each once,
  // on whatever threads are free. Each thread has its share and works it off in ever smaller pieces, from
  // half of it down to a grain; who is done takes half of what another has left. So a core that is slower, or
  // gets less of the memory's bandwidth, makes nobody wait. How the range is split never changes a result:
  // threads split outputs, never a sum.
  void ParallelFor(size_t count, size_t grain, absl::FunctionRef<void(size_t begin, size_t end)> fn);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace clamor::kernels
