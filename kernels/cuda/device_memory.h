// What host code needs of the device beside operators, without CUDA's headers: whether there is one, its
// memory, a stream.
//
// Tested by tests/kernels/cuda/step_test.cc.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include "kernels/cuda/stream.h"

namespace clamor::kernels::cuda {

// 0 as well where there is no driver.
int DeviceCount();
// Of the calling thread: what it allocates, makes and queues from now on is that device's.
void UseDevice(int device);
// What a device's bits depend on: "NVIDIA H100 80GB HBM3, sm_90, 132 multiprocessors, cuBLASLt 130100".
std::string DescribeDevice(int device);

// Memory of the device, zeroed, or nothing. Begins at a multiple of 256 bytes.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  // data() is null if the device has not as much left. The zeros are there before what `stream` does next.
  DeviceBuffer(size_t bytes, Stream stream);
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~DeviceBuffer();

  std::byte* data() const { return data_; }

 private:
  std::byte* data_ = nullptr;
};
size_t FreeDeviceBytes();  // of the current device
// Queues the writing of zeros.
void ClearDevice(void* p, size_t bytes, Stream stream);

// A stream of its own. What is queued on it is done when it is destroyed.
class OwnedStream {
 public:
  OwnedStream();
  ~OwnedStream();
  OwnedStream(const OwnedStream&) = delete;

  Stream get() const { return stream_; }
  void Wait() const;

 private:
  Stream stream_ = nullptr;
};

// Pinned memory for copies back that are waited for at once. ok(): there was as much.
class PinnedBuffer {
 public:
  explicit PinnedBuffer(size_t bytes);
  ~PinnedBuffer();
  PinnedBuffer(const PinnedBuffer&) = delete;

  bool ok() const { return data_ != nullptr; }
  // Waits for all of `stream` and then for the copy of `bytes` bytes from the device. Good until the next
  // call.
  const std::byte* Fetch(const void* device, size_t bytes, Stream stream);

 private:
  std::byte* data_ = nullptr;
};

}  // namespace clamor::kernels::cuda
