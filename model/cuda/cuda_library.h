// The CUDA back end as a library that is opened when it is wanted: whoever links this needs neither CUDA's
// libraries nor a driver, and works without.
//
// Tested by tests/model/cuda/cuda_library_test.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "model/cuda/device_options.h"
#include "model/model.h"
#include "model/weights.h"

namespace clamor {

// Loads the model onto the GPUs that `options` names. Opens libclamor_cuda.so, from the folder of the running
// program or else where the loader looks, the first time it is called. UNAVAILABLE: there is no such library,
// one that it needs is missing, it is of another version, or there are fewer GPUs; says which. Otherwise as
// DeviceModel::Load. The library stays open.
absl::StatusOr<std::unique_ptr<Model>> LoadCudaModel(const std::string& model_dir, int32_t max_positions,
                                                     const DeviceOptions& options,
                                                     Weights::Progress progress);

// What the library exports, by C names: both sides are built together, and kCudaLibraryVersion says so.
struct CudaLoad {
  const std::string& model_dir;
  int32_t max_positions;
  const DeviceOptions& options;
  Weights::Progress progress;
  absl::StatusOr<std::unique_ptr<Model>> result;
};
inline constexpr const char* kCudaLibraryName = "libclamor_cuda.so";
using CudaVersionFunction = const char*();  // clamor_cuda_version
using CudaDevicesFunction = int();          // clamor_cuda_devices
using CudaLoadFunction = void(CudaLoad*);   // clamor_cuda_load

// Another function of the library, which is opened as for LoadCudaModel. UNAVAILABLE likewise.
absl::StatusOr<void*> CudaFunction(const char* name);

}  // namespace clamor
