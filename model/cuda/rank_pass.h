// One rank's part of an engine's steps, on its own stream: the shards that its device holds, and what all
// ranks do alike.
//
// A step is Upload, Begin, then for each layer Attend and Feed, then Finish; between them the ranks share
// what they computed (device_pass.h). Its numerics are kernels/cuda's: activations are fp32 between products
// and rounded to bf16 where they go into one; keys and values are bf16; a row's bits do not depend on the
// others. Tested by tests/model/cuda/device_model_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/exchange.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/step_io.h"
#include "model/cuda/device_weights.h"
#include "model/cuda/kv_moves.h"
#include "model/cuda/rank_memory.h"
#include "model/cuda/step_layout.h"

namespace clamor {

// cos and sin of all positions, [positions, head_dim / 2] each.
struct DeviceRope {
  const float* cos = nullptr;
  const float* sin = nullptr;
};

// What a rank computes with. `weights` and `rope` outlive the passes.
struct RankModel {
  int device = 0;
  DeviceWeights weights;
  DeviceRope rope;
  kernels::cuda::DeviceBuffer rope_memory;
};

class RankPass {
 public:
  // On the rank's device, which is to be current for all calls. Allocate must succeed before any other.
  RankPass(const RankModel& model, const RankSizes& sizes, kernels::cuda::Numerics numerics,
           size_t input_bytes, size_t move_bytes);
  ~RankPass() { Wait(); }  // before what it uses goes

  // RESOURCE_EXHAUSTED as Model::NewPass.
  absl::Status Allocate();

  void Wait() const { stream_.Wait(); }

  kernels::cuda::Rank rank() const { return {model_.device, stream_.get()}; }
  kernels::cuda::StepInputs& inputs() { return inputs_; }
  void Move(const KvMoves& moves);

  // Where the shards of the whole model write theirs, one `part_bytes()` after the other.
  std::byte* parts(bool feed) { return reinterpret_cast<std::byte*>(memory_.parts[feed]); }
  std::byte* part_logits() { return reinterpret_cast<std::byte*>(memory_.part_logits); }
  size_t part_bytes() const { return sizes_.rows() * sizes_.config->hidden_size * sizeof(float); }
  size_t part_logit_bytes() const { return sizes_.rows() * sizes_.vocab() * sizeof(float); }
  const ShardRange& range() const { return sizes_.range; }

  void Begin(const StepShape& shape);
  void Attend(int layer, const StepShape& shape);  // leaves parts(false)
  void Feed(int layer, const StepShape& shape);    // reads them, leaves parts(true)
  void Finish(const StepShape& shape);             // reads them, leaves part_logits()
  // Of the logits of all shards the best: ids [wanted, k], values [wanted, k] and log-sum-exps [wanted];
  // and where the step draws, tokens [wanted].
  void ChooseBest(const StepShape& shape, std::byte* outputs);
  const float* logits(int64_t wanted_row) const { return memory_.logits + wanted_row * vocab(); }

 private:
  int64_t vocab() const { return sizes_.vocab() * sizes_.range.count; }
  kernels::cuda::KvPages Cache(int layer, int shard) const;
  float* Part(bool feed, int shard) const;
  void Norm(const StepShape& shape, const float* weight, const float* parts, const float* bias);
  void Product(const uint16_t* x, int64_t rows, const DeviceMatrix& w, const float* bias, float* y);
  absl::Status UploadLayers();

  const RankModel& model_;
  const RankSizes sizes_;
  kernels::cuda::OwnedStream stream_;
  kernels::cuda::DeviceBuffer buffer_;
  RankMemory memory_;
  kernels::cuda::MatMulPlans plans_;
  kernels::cuda::StepInputs inputs_, moves_;
};

}  // namespace clamor
