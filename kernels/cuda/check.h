// Errors of the CUDA runtime that only a defect of ours, or a broken device, can cause: after one, nothing on
// the device can be relied on, so the process ends and its streams go on elsewhere.
#pragma once

#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>

namespace clamor::kernels::cuda {

inline void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "cuda: %s: %s\n", what, cudaGetErrorString(error));
  std::abort();
}

}  // namespace clamor::kernels::cuda
