// A stack of its own that runs until it pauses. Every emulated thread is one; all run on one thread of the
// operating system, so nothing here locks.
//
// Switching saves six registers: swapcontext, which other processors than x86-64 fall back to, asks the
// kernel about signals each time.
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace clamor::simt {

class Fiber {
 public:
  static constexpr size_t kStackBytes = 64 << 10;

  Fiber();  // the page below the stack faults
  Fiber(Fiber&&) = delete;
  ~Fiber();

  // The next Resume() enters `entry`, which ends in Pause() and is not resumed.
  void Start(void (*entry)());
  // Runs the fiber until it calls Pause(). Fibers do not resume fibers.
  void Resume();
  void Pause();

  bool OnStack(const void* p) const { return p >= stack_ && p < stack_ + kStackBytes; }

 private:
  char* mapping_;
  char* stack_;
#if defined(__x86_64__)
  void* own_ = nullptr;
  void* resumer_ = nullptr;
#else
  ucontext_t own_, resumer_;
#endif
};

}  // namespace clamor::simt
