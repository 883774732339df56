#include <cublasLt.h>

#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/gpu.h"

namespace clamor::kernels::cuda {

int DeviceCount() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();  // it is no error of what comes next
  return 0;
}

void UseDevice(int device) { Check(cudaSetDevice(device), "choosing a device"); }

std::string DescribeDevice(int device) {
  cudaDeviceProp properties;
  Check(cudaGetDeviceProperties(&properties, device), "asking for a device's properties");
  return std::string(properties.name) + ", sm_" + std::to_string(10 * properties.major + properties.minor) +
         ", " + std::to_string(properties.multiProcessorCount) + " multiprocessors, cuBLASLt " +
         std::to_string(cublasLtGetVersion());
}

DeviceBuffer::DeviceBuffer(size_t bytes, Stream stream) {
  if (!GotMemory(cudaMalloc(&data_, bytes))) {
    data_ = nullptr;
    return;
  }
  Check(cudaMemsetAsync(data_, 0, bytes, stream), "clearing memory");
}

DeviceBuffer::~DeviceBuffer() {
  if (data_ != nullptr) Check(cudaFree(data_), "freeing");
}

size_t FreeDeviceBytes() {
  size_t available = 0, all = 0;
  Check(cudaMemGetInfo(&available, &all), "asking for free memory");
  return available;
}

void ClearDevice(void* p, size_t bytes, Stream stream) {
  if (bytes > 0) Check(cudaMemsetAsync(p, 0, bytes, stream), "clearing memory");
}

OwnedStream::OwnedStream() { Check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream"); }

OwnedStream::~OwnedStream() {
  Wait();
  Check(cudaStreamDestroy(stream_), "freeing");
}

void OwnedStream::Wait() const { Check(cudaStreamSynchronize(stream_), "waiting for a stream"); }

PinnedBuffer::PinnedBuffer(size_t bytes) {
  if (!GotMemory(cudaMallocHost(&data_, bytes))) data_ = nullptr;
}
PinnedBuffer::~PinnedBuffer() { Check(cudaFreeHost(data_), "freeing"); }

const std::byte* PinnedBuffer::Fetch(const void* device, size_t bytes, Stream stream) {
  Check(cudaMemcpyAsync(data_, device, bytes, cudaMemcpyDeviceToHost, stream), "copying back");
  Check(cudaStreamSynchronize(stream), "copying back");
  return data_;
}

}  // namespace clamor::kernels::cuda
