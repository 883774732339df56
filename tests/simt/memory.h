// The memory that the host asked the device for.
//
// Device buffers lie in one reserved range, each on pages of its own with an inaccessible page behind, filled
// with 0xff (NaN) at first. While host code runs they are inaccessible; a host that touches one dies in the
// handler of faults.cc. Pinned buffers are host memory that copies may use; while a copy that the host cannot
// know to be done still reads one, the host may not write it, and while one still writes it, the host may not
// touch it.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "tests/simt/operations.h"
#include "tests/simt/schedule.h"
#include "tests/simt/shadow.h"

namespace clamor::simt {

struct Buffer {
  std::byte* data = nullptr;
  size_t bytes = 0;
  bool pinned = false;
  const void* allocated_at = nullptr;  // return address
  OperationId allocated_by = 0;        // of cudaMallocAsync
  const void* freed_at = nullptr;      // null while it is alive
  Cell* cells = nullptr;               // [bytes], device buffers only

  struct Use {
    OperationId by;
    bool writes;
  };
  std::vector<Use> uses;  // of a pinned buffer, by operations that the host does not know to be done

  std::byte* mapping = nullptr;
  size_t mapped = 0;  // bytes, without the inaccessible page
};

// Null if the device has not that many bytes left.
Buffer* AllocateDevice(size_t bytes, const void* allocated_at);
Buffer* AllocatePinned(size_t bytes, const void* allocated_at);
// Gives the pages back; the address is not used again.
void Free(Buffer& buffer, const void* freed_at);

bool IsDeviceAddress(const void* p);
// The buffer whose bytes, or whose inaccessible page behind, hold p; freed ones included. Null if none does.
Buffer* FindBuffer(const void* p);
// "the 4096 bytes allocated at kernels/cuda/arena.cu:40".
std::string Describe(const Buffer& buffer);

// Enters an access to [p, p + n), which IsDeviceAddress, and says what is wrong with it, as Enter() does: not
// inside one live buffer, or out of order.
std::optional<std::string> AccessDevice(const void* p, size_t n, Access access, const Actor& actor,
                                        uint32_t site);

size_t DeviceBytesFree();  // of DeviceBytes()

// Memory is accessible to everyone while an object of this kind lives: the emulated device is at work.
class DeviceAtWork {
 public:
  DeviceAtWork();
  ~DeviceAtWork();
};

// To be called when the host has learned that operations are done.
void ForgetUses(const Clock& host_knows);

}  // namespace clamor::simt
