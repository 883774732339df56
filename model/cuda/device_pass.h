// The steps of one engine on a device: its keys and values, activations, and what goes up and comes back.
//
// A step is one upload, one graph where only decoding rows run, and one copy back. Its numerics are
// kernels/cuda's: activations are fp32 between products and rounded to bf16 where they go into one; keys and
// values are bf16; a row's bits do not depend on the other rows.
// Tested by tests/model/cuda/device_model_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/kv_pages.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/step_graphs.h"
#include "kernels/cuda/step_io.h"
#include "model/cuda/device_weights.h"
#include "model/cuda/step_layout.h"
#include "model/model.h"

namespace clamor {

// cos and sin of all positions, [positions, head_dim / 2] each.
struct DeviceRope {
  const float* cos = nullptr;
  const float* sin = nullptr;
};

class DevicePass : public ForwardPass {
 public:
  // `config`, `weights` and `rope` outlive the pass. `slots`: of the cache. `max_positions`: of a sequence.
  // RESOURCE_EXHAUSTED as Model::NewPass.
  static absl::StatusOr<std::unique_ptr<ForwardPass>> Create(const ModelConfig& config,
                                                             const DeviceWeights& weights,
                                                             const DeviceRope& rope, int64_t slots,
                                                             int32_t max_positions, const PassLimits& limits);

  ~DevicePass() override { stream_.Wait(); }  // before what it uses goes

  TopLogits Forward(const Batch& batch) override;
  std::span<const float> Logits(int64_t wanted_row) override;
  void Move(std::span<const int32_t> from, const KvLease& lease, int64_t first) override;

 private:
  // Where activations lie; pointers into memory_. Rows are padded to blocks of kRowBlock.
  struct Scratch {
    float* hidden;                   // [rows, hidden]
    uint16_t* normed;                // [rows, hidden]
    float* qkv;                      // [rows, q_size + 2 * kv_size]
    uint16_t* q;                     // [rows, q_size]
    uint16_t* attention;             // [rows, q_size]
    float* projected;                // [rows, hidden]
    float* gate_up;                  // [rows, 2 * intermediate]
    uint16_t* gated;                 // [rows, intermediate]
    uint16_t* selected;              // [rows, hidden]
    float* logits;                   // [rows, PaddedVocab]
    float* workspace;                // of attention
    std::byte* kv;                   // [layers][2][slots and surplus slots, in pages]
    kernels::cuda::KvPages* layers;  // [layers], for moves
  };

  DevicePass(const ModelConfig& config, const DeviceWeights& weights, const DeviceRope& rope, int64_t slots,
             int32_t max_positions, const PassLimits& limits);

  size_t Place(int32_t max_positions);
  kernels::cuda::KvPages Layer(int layer) const;
  void UploadLayers();
  void MoveQueued();
  void Record(const StepShape& shape, kernels::cuda::Stream stream);
  void RecordLayer(int layer, const StepShape& shape, kernels::cuda::Stream stream);
  void RecordHead(const StepShape& shape, kernels::cuda::Stream stream);
  void Product(const uint16_t* x, int64_t rows, const uint16_t* w, const float* bias, int64_t n, int64_t k,
               float* y, kernels::cuda::Stream stream);

  const ModelConfig& config_;
  const DeviceWeights& weights_;
  const DeviceRope rope_;
  const int64_t slots_;
  const PassLimits limits_;

  kernels::cuda::OwnedStream stream_;
  kernels::cuda::DeviceBuffer memory_;
  Scratch scratch_ = {};
  StepWriter writer_;
  kernels::cuda::MatMulPlans plans_;
  kernels::cuda::StepGraphs graphs_;
  std::unique_ptr<kernels::cuda::StepInputs> inputs_;
  std::unique_ptr<kernels::cuda::StepInputs> moves_;
  kernels::cuda::StepOutputs outputs_;
  kernels::cuda::PinnedBuffer row_of_logits_;

  // Moves that wait for the next step, one behind the other for each sequence.
  struct Moves {
    int32_t first;  // of from_
    int32_t count;
    int32_t offset;  // of the first place, in the first of its pages
  };
  std::vector<Moves> queued_;
  std::vector<int32_t> from_;   // slots
  std::vector<int32_t> pages_;  // [queued_][kPagesOfMove]
};

}  // namespace clamor
