// Where loads and stores arrive. Kernels are compiled with -fsanitize=thread, so that the compiler puts a
// call before each access to memory that is not plainly the function's own, and linked with the functions
// below in place of the sanitizer's. Asynchronous copies and vector accesses come through gpu.h.

#include <dlfcn.h>
#include <link.h>

#include <cstring>
#include <string>
#include <vector>

#include "tests/simt/block.h"
#include "tests/simt/memory.h"
#include "tests/simt/report.h"
#include "tests/simt/schedule.h"

namespace clamor::simt {
namespace {

// Constants that the compiler made tables of lie in the read-only part of what was loaded.
bool IsConstant(const void* p) {
  const auto look = [](dl_phdr_info* info, size_t, void* at) {
    for (int i = 0; i < info->dlpi_phnum; ++i) {
      const ElfW(Phdr)& part = info->dlpi_phdr[i];
      const uintptr_t begin = info->dlpi_addr + part.p_vaddr;
      if (part.p_type != PT_LOAD || (part.p_flags & PF_W)) continue;
      if (reinterpret_cast<uintptr_t>(at) - begin < part.p_memsz) return 1;
    }
    return 0;
  };
  return dl_iterate_phdr(look, const_cast<void*>(p)) != 0;
}

std::string Verb(Access access, size_t n) {
  constexpr const char* kVerbs[] = {"reads ", "writes ", "changes "};
  return kVerbs[static_cast<int>(access)] + std::to_string(n) + " bytes of ";
}

[[noreturn]] void FailAccess(const std::string& memory, size_t n, Access access, const void* return_address,
                             const std::string& wrong) {
  FailInKernel(Verb(access, n) + memory + " at " + PlaceOf(return_address) + ", " + wrong);
}

void OnSharedAccess(const void* p, size_t n, Access access, const void* return_address) {
  const SharedCells* const v = FindShared(p);
  const size_t at = v == nullptr ? 0 : static_cast<const std::byte*>(p) - v->data;
  if (v == nullptr || at + n > v->bytes) {
    FailAccess("shared memory", n, access, return_address, "out of the bounds of every shared variable");
  }
  const auto wrong = Enter(v->cells + at, n, access, Running()->actor, SiteOf(return_address), 0);
  if (wrong) FailAccess("shared memory", n, access, return_address, *wrong);
}

void OnAccess(const void* p, size_t n, Access access, const void* return_address) {
  const Thread* const t = Running();
  if (t == nullptr || t->fiber.OnStack(p)) return;
  if (IsSharedAddress(p)) return OnSharedAccess(p, n, access, return_address);
  if (IsDeviceAddress(p)) {
    const auto wrong = AccessDevice(p, n, access, t->actor, SiteOf(return_address));
    if (wrong) FailAccess("device memory", n, access, return_address, *wrong);
    return;
  }
  if (access == Access::kRead && (IsArgument(p) || IsConstant(p))) return;
  FailAccess("memory", n, access, return_address, "which is the host's or another thread's own");
}

void CheckAligned(const void* p, size_t n, Access access, const void* return_address) {
  if (reinterpret_cast<uintptr_t>(p) % n == 0) return;
  FailAccess("memory", n, access, return_address,
             "misaligned: the address must be a multiple of " + std::to_string(n));
}

void OnAlignedAccess(const void* p, size_t n, Access access, const void* return_address) {
  if (Running() == nullptr || Running()->fiber.OnStack(p)) return;
  CheckAligned(p, n, access, return_address);
  OnAccess(p, n, access, return_address);
}

void Finish(const AsyncCopy& copy) {
  const SharedCells* const v = FindShared(copy.to);
  Cell* const cells = v->cells + (copy.to - v->data);
  const Actor& actor = Running()->actor;
  std::memcpy(copy.to, copy.bytes, sizeof(copy.bytes));
  const Record filled = {actor.operation, actor.thread, actor.time, copy.site};
  for (size_t i = 0; i < sizeof(copy.bytes); ++i) cells[i] = {.write = filled};
}

}  // namespace
}  // namespace clamor::simt

namespace simt {
using namespace clamor::simt;

void CheckShared(const void* row) {
  const void* const from = __builtin_return_address(0);
  CheckAligned(row, 16, Access::kRead, from);
  if (!IsSharedAddress(row)) FailAccess("memory", 16, Access::kRead, from, "which is not shared (ldmatrix)");
  OnSharedAccess(row, 16, Access::kRead, from);
}

void LoadVector(void* to, const void* from, size_t bytes) {
  OnAlignedAccess(from, bytes, Access::kRead, __builtin_return_address(0));
  std::memcpy(to, from, bytes);
}

void StoreVector(void* to, const void* from, size_t bytes) {
  OnAlignedAccess(to, bytes, Access::kWrite, __builtin_return_address(0));
  std::memcpy(to, from, bytes);
}

void AtomicAccess(const void* p, size_t bytes, const void* return_address) {
  OnAlignedAccess(p, bytes, Access::kAtomic, return_address);
}

// A thread may read what it copied, and others after a barrier, only once it was waited for. Until then the
// bytes are marked as unfilled, and what shared memory held before is still there.
void CopyAsync(void* shared, const void* from, int bytes) {
  const void* const site = __builtin_return_address(0);
  CheckAligned(shared, 16, Access::kWrite, site);
  CheckAligned(from, 16, Access::kRead, site);
  const SharedCells* const v = FindShared(shared);
  const size_t at = v == nullptr ? 0 : static_cast<std::byte*>(shared) - v->data;
  if (v == nullptr || at + 16 > v->bytes) {
    FailAccess("shared memory", 16, Access::kWrite, site, "out of the bounds of every shared variable");
  }
  Thread& t = *Running();
  AsyncCopy copy = {.to = static_cast<std::byte*>(shared), .bytes = {}, .site = SiteOf(site)};
  if (bytes > 0) {
    OnAccess(from, bytes, Access::kRead, site);
    std::memcpy(copy.bytes, from, bytes);
  }
  if (const auto wrong = EnterUnfilled(v->cells + at, 16, t.actor, copy.site)) {
    FailAccess("shared memory", 16, Access::kWrite, site, *wrong);
  }
  t.groups.back().push_back(copy);
}

void CopyCommit() { Running()->groups.emplace_back(); }

void CopyWait(int groups_left) {
  auto& groups = Running()->groups;
  while (static_cast<int>(groups.size()) - 1 > groups_left) {
    for (const AsyncCopy& copy : groups.front()) Finish(copy);
    groups.erase(groups.begin());
  }
}

}  // namespace simt

// The names that gcc's -fsanitize=thread calls.
extern "C" {
#define CLAMOR_ACCESS(bytes)                                                                            \
  void __tsan_read##bytes(void* p) {                                                                    \
    clamor::simt::OnAlignedAccess(p, bytes, clamor::simt::Access::kRead, __builtin_return_address(0));  \
  }                                                                                                     \
  void __tsan_write##bytes(void* p) {                                                                   \
    clamor::simt::OnAlignedAccess(p, bytes, clamor::simt::Access::kWrite, __builtin_return_address(0)); \
  }
CLAMOR_ACCESS(1)
CLAMOR_ACCESS(2)
CLAMOR_ACCESS(4)
CLAMOR_ACCESS(8)
CLAMOR_ACCESS(16)
void __tsan_read_range(void* p, unsigned long n) {
  clamor::simt::OnAccess(p, n, clamor::simt::Access::kRead, __builtin_return_address(0));
}
void __tsan_write_range(void* p, unsigned long n) {
  clamor::simt::OnAccess(p, n, clamor::simt::Access::kWrite, __builtin_return_address(0));
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

// Host code beside kernels counts references. In kernels, atomics are those of <cuda_runtime.h>.
#define CLAMOR_ATOMIC(bits, T)                                                                            \
  T __tsan_atomic##bits##_load(const volatile T* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); } \
  void __tsan_atomic##bits##_store(volatile T* p, T v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); } \
  T __tsan_atomic##bits##_fetch_add(volatile T* p, T v, int) {                                            \
    return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);                                                    \
  }                                                                                                       \
  T __tsan_atomic##bits##_fetch_sub(volatile T* p, T v, int) {                                            \
    return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST);                                                    \
  }
CLAMOR_ATOMIC(8, unsigned char)
CLAMOR_ATOMIC(32, unsigned)
CLAMOR_ATOMIC(64, unsigned long)
}
