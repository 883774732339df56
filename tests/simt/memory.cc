#include "tests/simt/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>

#include "tests/simt/report.h"
#include "tests/simt/traffic.h"

namespace clamor::simt {
namespace {

constexpr size_t kRange = size_t{1} << 36;  // addresses; memory is taken only where it is touched

size_t RoundUp(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }
size_t PageBytes() {
  static const size_t bytes = sysconf(_SC_PAGESIZE);
  return bytes;
}

void* Map(size_t bytes, int protection) {
  void* const p = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) Fail(std::string("mmap: ") + std::strerror(errno));
  return p;
}
void Protect(const Buffer& b, int protection) {
  if (mprotect(b.mapping, b.mapped, protection) != 0) Fail(std::string("mprotect: ") + std::strerror(errno));
}

struct Heap {
  std::byte* const begin = static_cast<std::byte*>(Map(kRange, PROT_NONE));
  std::byte* next = begin;
  size_t bytes = size_t{4} << 30, used = 0;
  std::map<const std::byte*, std::unique_ptr<Buffer>> buffers;  // by mapping, freed ones and pinned ones too
  std::vector<Buffer*> alive;
  int at_work = 0;
};
Heap& heap() {
  static Heap* const heap = new Heap;
  return *heap;
}

int HostProtection(const Buffer& b) {
  if (!b.pinned) return PROT_NONE;
  bool written = false;
  for (const Buffer::Use& use : b.uses) written |= use.writes;
  return written ? PROT_NONE : b.uses.empty() ? PROT_READ | PROT_WRITE : PROT_READ;
}

void ProtectAll(bool at_work) {
  for (const Buffer* buffer : heap().alive) {
    Protect(*buffer, at_work ? PROT_READ | PROT_WRITE : HostProtection(*buffer));
  }
}

Buffer* Add(Buffer buffer) {
  const std::byte* const at = buffer.mapping;
  Buffer* const added = (heap().buffers[at] = std::make_unique<Buffer>(std::move(buffer))).get();
  heap().alive.push_back(added);
  return added;
}

}  // namespace

Buffer* AllocateDevice(size_t bytes, const void* allocated_at) {
  if (bytes > DeviceBytesFree()) return nullptr;
  Heap& h = heap();
  const size_t mapped = RoundUp(std::max<size_t>(bytes, 1), PageBytes());
  if (h.next + mapped + PageBytes() > h.begin + kRange) Fail("out of addresses for device memory");
  Buffer b = {
      .data = h.next, .bytes = bytes, .allocated_at = allocated_at, .mapping = h.next, .mapped = mapped};
  h.next += mapped + PageBytes();
  h.used += bytes;
  Protect(b, PROT_READ | PROT_WRITE);
  std::memset(b.data, 0xff, mapped);
  b.cells = static_cast<Cell*>(Map(mapped * sizeof(Cell), PROT_READ | PROT_WRITE));
  if (h.at_work == 0) Protect(b, PROT_NONE);
  return Add(std::move(b));
}

Buffer* AllocatePinned(size_t bytes, const void* allocated_at) {
  const size_t mapped = RoundUp(std::max<size_t>(bytes, 1), PageBytes());
  std::byte* const at = static_cast<std::byte*>(Map(mapped + PageBytes(), PROT_NONE));
  // The end lies at the inaccessible page, as near as alignment allows.
  Buffer b = {.data = at + mapped - RoundUp(bytes, 64),
              .bytes = bytes,
              .pinned = true,
              .allocated_at = allocated_at,
              .mapping = at,
              .mapped = mapped};
  Protect(b, PROT_READ | PROT_WRITE);
  std::memset(at, 0xff, mapped);
  return Add(std::move(b));
}

void Free(Buffer& b, const void* freed_at) {
  b.freed_at = freed_at;
  std::erase(heap().alive, &b);
  b.uses.clear();
  Protect(b, PROT_NONE);
  madvise(b.mapping, b.mapped, MADV_DONTNEED);
  if (b.pinned) return;
  heap().used -= b.bytes;
  munmap(b.cells, b.mapped * sizeof(Cell));
  b.cells = nullptr;
}

bool IsDeviceAddress(const void* p) { return p >= heap().begin && p < heap().begin + kRange; }

Buffer* FindBuffer(const void* p) {
  static Buffer* last = nullptr;
  const auto holds = [p](const Buffer& b) {
    return p >= b.mapping && p < b.mapping + b.mapped + PageBytes();
  };
  if (last != nullptr && holds(*last)) return last;
  const auto after = heap().buffers.upper_bound(static_cast<const std::byte*>(p));
  if (after == heap().buffers.begin()) return nullptr;
  Buffer* const buffer = std::prev(after)->second.get();
  return holds(*buffer) ? last = buffer : nullptr;
}

std::string Describe(const Buffer& b) {
  return "the " + std::to_string(b.bytes) + " bytes allocated at " + PlaceOf(b.allocated_at);
}

std::optional<std::string> AccessDevice(const void* p, size_t n, Access access, const Actor& actor,
                                        uint32_t site) {
  Buffer* const b = FindBuffer(p);
  if (b == nullptr) return "which belong to no buffer";
  const size_t at = static_cast<const std::byte*>(p) - b->data;
  if (at + n > b->bytes) return "at offset " + std::to_string(at) + ", out of the bounds of " + Describe(*b);
  if (b->freed_at != nullptr) return "of " + Describe(*b) + ", which were freed at " + PlaceOf(b->freed_at);
  CountTraffic(b->cells + at, n, access, actor.operation);
  return Enter(b->cells + at, n, access, actor, site, b->allocated_by);
}

size_t DeviceBytes() { return heap().bytes; }
size_t DeviceBytesFree() { return heap().bytes - std::min(heap().bytes, heap().used); }
void SetDeviceBytes(size_t bytes) { heap().bytes = bytes; }

DeviceAtWork::DeviceAtWork() {
  if (heap().at_work++ == 0) ProtectAll(true);
}
DeviceAtWork::~DeviceAtWork() {
  if (--heap().at_work == 0) ProtectAll(false);
}

void ForgetUses(const Clock& host_knows) {
  for (Buffer* b : heap().alive) {
    if (b->uses.empty()) continue;
    std::erase_if(b->uses, [&](const Buffer::Use& use) {
      const Operation& by = GetOperation(use.by);
      return host_knows.at(by.lane) >= by.seen.at(by.lane);
    });
    if (heap().at_work == 0) Protect(*b, HostProtection(*b));
  }
}

}  // namespace clamor::simt
