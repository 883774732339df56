// The steps of one engine on one device or several: what goes up, what the ranks do one beside the other,
// what comes back.
//
// A step is one upload to each rank, one graph where only decoding rows run, and one copy back from the
// first. Rank 0's logits decide; the others compute their shards of what it asks for. Tested by
// tests/model/cuda/device_model_test.cc and device_options_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/exchange.h"
#include "kernels/cuda/step_graphs.h"
#include "kernels/cuda/step_io.h"
#include "model/cuda/kv_moves.h"
#include "model/cuda/rank_pass.h"
#include "model/cuda/step_layout.h"
#include "model/model.h"

namespace clamor {

struct DevicePassOptions {
  const ModelConfig* config;         // outlives the pass, as
  std::span<const RankModel> ranks;  // these do
  kernels::cuda::Numerics numerics;
  int64_t slots;          // of the cache
  int32_t max_positions;  // of a sequence
  PassLimits limits;
};

class DevicePass : public ForwardPass {
 public:
  // RESOURCE_EXHAUSTED as Model::NewPass.
  static absl::StatusOr<std::unique_ptr<ForwardPass>> Create(const DevicePassOptions& options);
  // What a pass takes of a rank's device, all in all.
  static size_t BytesOf(const DevicePassOptions& options, const RankModel& rank);

  ~DevicePass() override;

  void Begin(const Batch& batch) override;
  TopLogits Finish() override;
  std::span<const float> Logits(int64_t wanted_row) override;
  void Move(std::span<const int32_t> from, const KvLease& lease, int64_t first) override;

 private:
  explicit DevicePass(const DevicePassOptions& options);

  void MoveQueued();
  void Record(const StepShape& shape);
  void OnEachRank(const std::function<void(RankPass&)>& work);
  void ShareParts(bool feed, const StepShape& shape);
  void ShareLogits(const StepShape& shape);

  const ModelConfig& config_;
  const PassLimits limits_;
  std::vector<std::unique_ptr<RankPass>> ranks_;
  std::unique_ptr<kernels::cuda::Exchange> exchange_;
  StepWriter writer_;
  KvMoves moves_;
  kernels::cuda::StepGraphs graphs_;
  kernels::cuda::StepOutputs outputs_;
  kernels::cuda::PinnedBuffer row_of_logits_;
  StepShape shape_;  // of the step under way
  std::vector<kernels::cuda::Exchange::Piece> pieces_;
  std::vector<std::byte*> bases_;  // by rank
};

}  // namespace clamor
