// A model whose weights, keys and values are on a GPU.
//
// Tested by tests/model/cuda/device_model_test.cc (goldens of four families, and the bits of a tree).
#pragma once

#include <memory>
#include <string>

#include "kernels/cuda/device_memory.h"
#include "model/cuda/device_pass.h"
#include "model/cuda/device_weights.h"
#include "model/model.h"

namespace clamor {

class DeviceModel : public Model {
 public:
  // `max_positions` as Transformer::Load. Errors as LoadModelDescription and DeviceWeights::Load, and
  // INVALID_ARGUMENT where a size is one that the kernels do not know: names field, value and what is known.
  static absl::StatusOr<std::unique_ptr<Model>> Load(const std::string& model_dir, int32_t max_positions,
                                                     Weights::Progress progress);

  const ModelConfig& config() const override { return description_.config; }
  const GenerationDefaults& generation() const override { return description_.generation; }
  int32_t max_positions() const override { return max_positions_; }
  size_t weight_bytes() const override { return weights_.bytes; }
  int32_t max_tree_rows() const override { return kernels::cuda::kMaxNodes; }
  absl::StatusOr<std::unique_ptr<ForwardPass>> NewPass(KvCache& cache, const PassLimits& limits,
                                                       kernels::ThreadPool& pool) const override;

 private:
  DeviceModel() = default;
  absl::Status UploadRope(kernels::cuda::Stream stream);

  ModelDescription description_;
  int32_t max_positions_ = 0;
  DeviceWeights weights_;
  DeviceRope rope_;
  kernels::cuda::DeviceBuffer rope_memory_;
};

}  // namespace clamor
