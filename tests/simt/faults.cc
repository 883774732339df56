// What the processor reports: touches of memory that is inaccessible at the moment, and stacks that ran over.

#include <execinfo.h>
#include <signal.h>

#include <cstdint>
#include <string>

#include "tests/simt/block.h"
#include "tests/simt/memory.h"
#include "tests/simt/report.h"

namespace clamor::simt {
namespace {

// The innermost place in code of ours: what faults may be a memcpy of the C library.
std::string PlaceOfFault() {
  void* frames[32];
  const int count = backtrace(frames, 32);
  for (int i = 2; i < count; ++i) {  // 0 and 1: the handler
    const std::string place = PlaceOf(frames[i]);
    if (place.find(':') != std::string::npos) return place;
  }
  return "an unknown place";
}

std::string HostTouches(const Buffer& b) {
  if (b.freed_at != nullptr) return "freed memory: " + Describe(b) + ", freed at " + PlaceOf(b.freed_at);
  if (!b.pinned) return "device memory: " + Describe(b);
  if (b.uses.empty()) return "memory out of the bounds of " + Describe(b);
  return "pinned memory, " + Describe(b) + ", which " + Describe(b.uses.back().by) + ", still " +
         (b.uses.back().writes ? "writes" : "reads") + " as far as the host knows: it has not waited";
}

void OnFault(int, siginfo_t* info, void*) {
  const std::string place = PlaceOfFault();
  if (Running() != nullptr) FailInKernel("faults at " + place);
  if (const Buffer* b = FindBuffer(info->si_addr))
    Fail("the host, at " + place + ", touches " + HostTouches(*b));
  signal(SIGSEGV, SIG_DFL);  // not ours: returning runs into it again
}

[[maybe_unused]] const bool installed = [] {
  static char stack[256 << 10];
  const stack_t alternate = {.ss_sp = stack, .ss_flags = 0, .ss_size = sizeof(stack)};
  sigaltstack(&alternate, nullptr);
  struct sigaction action = {};
  action.sa_sigaction = OnFault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, nullptr);
  return true;
}();

}  // namespace
}  // namespace clamor::simt
