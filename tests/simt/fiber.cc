#include "tests/simt/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#if defined(__x86_64__)
// Pushes what the callee must preserve, exchanges stacks, pops.
extern "C" void clamor_simt_switch(void** save, void* load);
asm(R"(
.text
.type clamor_simt_switch, @function
clamor_simt_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size clamor_simt_switch, . - clamor_simt_switch
)");
#endif

namespace clamor::simt {

Fiber::Fiber() {
  const size_t guard = sysconf(_SC_PAGESIZE);
  void* mapping =
      mmap(nullptr, guard + kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED || mprotect(mapping, guard, PROT_NONE) != 0) {
    std::perror("simt: no memory for the stack of a thread");
    std::abort();
  }
  mapping_ = static_cast<char*>(mapping);
  stack_ = mapping_ + guard;
}

Fiber::~Fiber() { munmap(mapping_, stack_ - mapping_ + kStackBytes); }

#if defined(__x86_64__)

void Fiber::Start(void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack_ + kStackBytes);
  *--top = nullptr;  // entry's return address: it never returns
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  own_ = top;
}
void Fiber::Resume() { clamor_simt_switch(&resumer_, own_); }
void Fiber::Pause() { clamor_simt_switch(&own_, resumer_); }

#else

void Fiber::Start(void (*entry)()) {
  getcontext(&own_);
  own_.uc_stack = {.ss_sp = stack_, .ss_flags = 0, .ss_size = kStackBytes};
  own_.uc_link = &resumer_;
  makecontext(&own_, entry, 0);
}
void Fiber::Resume() { swapcontext(&resumer_, &own_); }
void Fiber::Pause() { swapcontext(&own_, &resumer_); }

#endif

}  // namespace clamor::simt
