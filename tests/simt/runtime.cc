// The rest of the runtime: launches, memory and copies, each checked and then queued.

#include <cstring>
#include <string>
#include <utility>

#include "tests/simt/memory.h"
#include "tests/simt/report.h"
#include "tests/simt/streams.h"

using namespace clamor::simt;

namespace {

// Enters the device's side of a copy, in the copy's name.
void AccessInCopy(const void* p, size_t bytes, Access access, OperationId id) {
  const Actor actor = {.operation = id};
  const auto wrong = AccessDevice(p, bytes, access, actor, 0);
  if (!wrong) return;
  Fail(Describe(id) + (access == Access::kRead ? ", reads " : ", writes ") + std::to_string(bytes) +
       " bytes of device memory, " + *wrong);
}

// The pinned buffer that holds all of [p, p + bytes).
Buffer* PinnedAt(const void* p, size_t bytes, const void* return_address) {
  Buffer* const b = FindBuffer(p);
  const std::byte* const begin = static_cast<const std::byte*>(p);
  std::string wrong;
  if (b == nullptr || !b->pinned) {
    wrong = "uses host memory that is not from cudaMallocHost: it would not be asynchronous";
  } else if (b->freed_at != nullptr) {
    wrong = "uses " + Describe(*b) + ", freed at " + PlaceOf(b->freed_at);
  } else if (begin < b->data || begin + bytes > b->data + b->bytes) {
    wrong = "of " + std::to_string(bytes) + " bytes goes out of the bounds of " + Describe(*b);
  }
  if (!wrong.empty()) Fail("cudaMemcpyAsync at " + PlaceOf(return_address) + " " + wrong);
  return b;
}

void CheckDevicePointer(const void* p, const char* call, const void* return_address) {
  if (IsDeviceAddress(p)) return;
  Fail(std::string(call) + " at " + PlaceOf(return_address) +
       " is given an address that is not the device's");
}

cudaError_t FreeNow(void* p, bool pinned, const char* call, const void* from) {
  if (p == nullptr) return cudaSuccess;
  CheckNotCapturing(nullptr, call, from);
  WaitForAll();
  Buffer* const b = FindBuffer(p);
  if (b == nullptr || b->data != p || b->pinned != pinned) {
    Fail(std::string(call) + " at " + PlaceOf(from) + " is given an address that was not allocated for it");
  }
  if (b->freed_at != nullptr) {
    Fail(std::string(call) + " at " + PlaceOf(from) + " frees again " + Describe(*b) + ", freed at " +
         PlaceOf(b->freed_at));
  }
  Free(*b, from);
  return cudaSuccess;
}

}  // namespace

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorIllegalAddress:
      return "an illegal memory access was encountered";
    case cudaErrorPeerAccessAlreadyEnabled:
      return "peer access is already enabled";
  }
  return "unknown error";
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidValue; }

cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  *can = 0;
  return cudaErrorInvalidValue;
}
cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return cudaErrorInvalidValue; }

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device != 0) return cudaErrorInvalidValue;
  *properties = {.name = "emulated", .major = 8, .minor = 0, .multiProcessorCount = 1};
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *free_bytes = DeviceBytesFree();
  *total_bytes = DeviceBytes();
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** p, size_t bytes) {
  CheckNotCapturing(nullptr, "cudaMalloc", __builtin_return_address(0));
  const Buffer* const b = AllocateDevice(bytes, __builtin_return_address(0));
  *p = b == nullptr ? nullptr : b->data;
  return b == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}

cudaError_t cudaFree(void* p) { return FreeNow(p, false, "cudaFree", __builtin_return_address(0)); }

cudaError_t cudaMallocHost(void** p, size_t bytes) {
  CheckNotCapturing(nullptr, "cudaMallocHost", __builtin_return_address(0));
  *p = AllocatePinned(bytes, __builtin_return_address(0))->data;
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* p) { return FreeNow(p, true, "cudaFreeHost", __builtin_return_address(0)); }

cudaError_t cudaMallocAsync(void** p, size_t bytes, cudaStream_t stream) {
  const void* const from = __builtin_return_address(0);
  CheckStream(stream, "cudaMallocAsync", from);
  CheckNotCapturing(stream, "cudaMallocAsync", from);
  Buffer* const b = AllocateDevice(bytes, from);
  if (b == nullptr) return cudaErrorMemoryAllocation;
  *p = b->data;
  Operation allocation = {.what = "cudaMallocAsync", .issued_at = from};
  b->allocated_by = Enqueue(stream->lane, {.operation = allocation, .run = nullptr}, {});
  return cudaSuccess;
}

cudaError_t cudaFreeAsync(void* p, cudaStream_t stream) {
  const void* const from = __builtin_return_address(0);
  CheckStream(stream, "cudaFreeAsync", from);
  CheckNotCapturing(stream, "cudaFreeAsync", from);
  CheckDevicePointer(p, "cudaFreeAsync", from);
  Operation operation = {.what = "cudaFreeAsync", .issued_at = from};
  Submit(stream, {.operation = operation, .run = [p, from](OperationId id) {
                    Buffer* const b = FindBuffer(p);
                    // As a write to all of it: whoever else uses it must be ordered with this.
                    AccessInCopy(p, b == nullptr ? 0 : b->bytes, Access::kWrite, id);
                    Free(*b, from);
                  }});
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const void* const at = __builtin_return_address(0);
  CheckStream(stream, "cudaMemcpyAsync", at);
  if (bytes == 0) return cudaSuccess;
  if (kind != cudaMemcpyHostToDevice) CheckDevicePointer(from, "cudaMemcpyAsync", at);
  if (kind != cudaMemcpyDeviceToHost) CheckDevicePointer(to, "cudaMemcpyAsync", at);
  Work work = {.operation = {.what = "cudaMemcpyAsync", .issued_at = at}, .run = [=](OperationId id) {
                 if (kind != cudaMemcpyHostToDevice) AccessInCopy(from, bytes, Access::kRead, id);
                 if (kind != cudaMemcpyDeviceToHost) AccessInCopy(to, bytes, Access::kWrite, id);
                 std::memcpy(to, from, bytes);
               }};
  if (kind == cudaMemcpyHostToDevice) work.pinned = {PinnedAt(from, bytes, at), false};
  if (kind == cudaMemcpyDeviceToHost) work.pinned = {PinnedAt(to, bytes, at), true};
  Submit(stream, std::move(work));
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  const void* const at = __builtin_return_address(0);
  CheckStream(stream, "cudaMemsetAsync", at);
  if (bytes == 0) return cudaSuccess;
  CheckDevicePointer(to, "cudaMemsetAsync", at);
  Submit(stream, {.operation = {.what = "cudaMemsetAsync", .issued_at = at}, .run = [=](OperationId id) {
                    AccessInCopy(to, bytes, Access::kWrite, id);
                    std::memset(to, value, bytes);
                  }});
  return cudaSuccess;
}

namespace simt {

void Launch(const void* kernel, dim3 grid, dim3 threads, size_t shared_bytes, CUstream_st* stream,
            std::unique_ptr<Call> call) {
  const void* const at = __builtin_return_address(0);
  CheckStream(stream, "a kernel's launch", at);
  CheckLaunch(kernel, grid, threads, shared_bytes, at);
  const KernelLaunch launch = {grid, threads, shared_bytes, std::move(call)};
  const Operation operation = {.kernel = kernel,
                               .issued_at = at,
                               .grid = {grid.x, grid.y, grid.z},
                               .threads = {threads.x, threads.y, threads.z}};
  Submit(stream, {.operation = operation, .run = [launch](OperationId id) { RunKernel(launch, id); }});
}

}  // namespace simt
