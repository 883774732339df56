// What libclamor_cuda.so shows to the outside.
#include "kernels/cuda/device_memory.h"
#include "model/cuda/cuda_library.h"
#include "model/cuda/device_model.h"

#define CLAMOR_EXPORT extern "C" __attribute__((visibility("default")))

CLAMOR_EXPORT const char* clamor_cuda_version() { return CLAMOR_VERSION; }

CLAMOR_EXPORT int clamor_cuda_devices() { return clamor::kernels::cuda::DeviceCount(); }

CLAMOR_EXPORT void clamor_cuda_load(clamor::CudaLoad* request) {
  request->result = clamor::DeviceModel::Load(request->model_dir, request->max_positions, request->options,
                                              request->progress);
}
