#include "model/train/cuda/training_library.h"

#include <utility>

#include "absl/status/status.h"
#include "kernels/status_macros.h"
#include "model/cuda/cuda_library.h"

namespace clamor {

absl::StatusOr<std::unique_ptr<TrainingBackend>> NewCudaTraining(const ModelConfig& config,
                                                                 const ModelParameters& parameters,
                                                                 const DeviceTrainingLimits& limits) {
  CLAMOR_ASSIGN_OR_RETURN(void* const train, CudaFunction("clamor_cuda_train"));
  CudaTrain request = {.config = config,
                       .parameters = parameters,
                       .limits = limits,
                       .result = absl::UnknownError("nothing made")};
  reinterpret_cast<CudaTrainFunction*>(train)(&request);
  return std::move(request.result);
}

}  // namespace clamor
