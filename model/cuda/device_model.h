// A model whose weights, keys and values are on a GPU, or on several that share its heads, columns and rows.
//
// Tested by tests/model/cuda/device_model_test.cc (goldens of four families, and the bits of a tree) and
// device_options_test.cc (int8 and int4, ranks, memory).
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/cuda/device_memory.h"
#include "model/cuda/device_options.h"
#include "model/cuda/device_pass.h"
#include "model/cuda/device_weights.h"
#include "model/model.h"

namespace clamor {

class DeviceModel : public Model {
 public:
  // `max_positions` as Transformer::Load. Errors as LoadModelDescription and DeviceWeights::Load, and
  // INVALID_ARGUMENT where a size is one that the kernels do not know, or that does not divide into shards:
  // names field, value and what is known.
  static absl::StatusOr<std::unique_ptr<Model>> Load(const std::string& model_dir, int32_t max_positions,
                                                     const DeviceOptions& options,
                                                     Weights::Progress progress);

  const ModelConfig& config() const override { return description_.config; }
  const GenerationDefaults& generation() const override { return description_.generation; }
  int32_t max_positions() const override { return max_positions_; }
  size_t weight_bytes() const override;  // of all ranks
  int32_t max_tree_rows() const override { return kernels::cuda::kMaxNodes; }
  std::string device() const override;
  std::optional<int64_t> KvTokensThatFit(const PassLimits& limits) const override;
  absl::StatusOr<std::unique_ptr<ForwardPass>> NewPass(KvCache& cache, const PassLimits& limits,
                                                       kernels::ThreadPool& pool) const override;

 private:
  DeviceModel() = default;
  absl::Status LoadRank(const std::string& model_dir, const ShardRange& range, RankModel& rank,
                        Weights::Progress progress) const;
  absl::Status UploadRope(RankModel& rank, kernels::cuda::Stream stream) const;
  DevicePassOptions PassOptions(int64_t slots, const PassLimits& limits) const;

  ModelDescription description_;
  int32_t max_positions_ = 0;
  DeviceOptions options_;
  std::vector<RankModel> ranks_;
};

}  // namespace clamor
