// What the processor reports: touches of memory that is inaccessible at the moment, and stacks that ran over.

#include <signal.h>
#include <ucontext.h>

#include <cstdint>
#include <string>

#include "tests/simt/block.h"
#include "tests/simt/memory.h"
#include "tests/simt/report.h"

namespace clamor::simt {
namespace {

const void* InstructionOf(void* context) {
#if defined(__x86_64__)
  // One further, as return addresses are.
  return reinterpret_cast<const char*>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]) + 1;
#else
  (void)context;
  return nullptr;
#endif
}

std::string HostTouches(const Buffer& b) {
  if (b.freed_at != nullptr) return "freed memory: " + Describe(b) + ", freed at " + PlaceOf(b.freed_at);
  if (!b.pinned) return "device memory: " + Describe(b);
  if (b.uses.empty()) return "memory out of the bounds of " + Describe(b);
  return "pinned memory, " + Describe(b) + ", which " + Describe(b.uses.back().by) + ", still " +
         (b.uses.back().writes ? "writes" : "reads") + " as far as the host knows: it has not waited";
}

void OnFault(int, siginfo_t* info, void* context) {
  const std::string place = PlaceOf(InstructionOf(context));
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
