// Training by the CUDA back end's library (model/cuda/cuda_library.h), opened when it is wanted.
//
// Tested by tests/model/cuda/cuda_library_test.cc.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "model/train/parameters.h"
#include "model/train/training_backend.h"

namespace clamor {

struct DeviceTrainingLimits {
  int64_t rows = 0;        // of a batch: at most 65472
  int32_t max_length = 0;  // of a text
  bool recompute = false;  // as TrainerOptions
};

// Training on the first GPU. `parameters`: of `config`; outlives the result. UNAVAILABLE as LoadCudaModel;
// otherwise as DeviceTraining::Create.
absl::StatusOr<std::unique_ptr<TrainingBackend>> NewCudaTraining(const ModelConfig& config,
                                                                 const ModelParameters& parameters,
                                                                 const DeviceTrainingLimits& limits);

// What the library exports for it.
struct CudaTrain {
  const ModelConfig& config;
  const ModelParameters& parameters;
  DeviceTrainingLimits limits;
  absl::StatusOr<std::unique_ptr<TrainingBackend>> result;
};
using CudaTrainFunction = void(CudaTrain*);  // clamor_cuda_train

}  // namespace clamor
