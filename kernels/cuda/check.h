// Errors of the CUDA runtime that only a defect of ours, or a broken device, can cause: after one, nothing on
// the device can be relied on, so the process ends and its streams go on elsewhere.
#pragma once

#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>

namespace clamor::kernels::cuda {

inline void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(
      stderr,
      "cuda: %s: %s; the device cannot be relied on any more, so this process ends and its requests go "
      "on elsewhere\n",
      what, cudaGetErrorString(error));
  std::abort();
}

// Of an allocation, which alone may fail without a defect: false if there is not as much left.
inline bool GotMemory(cudaError_t error) {
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // it is no error of what comes next
    return false;
  }
  Check(error, "memory");
  return true;
}

}  // namespace clamor::kernels::cuda
