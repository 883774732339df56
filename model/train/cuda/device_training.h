// Training on a GPU: forward and backward pass over whole texts, and AdamW.
//
// Numerics: values, moments, gradients, activations between products and their gradients are fp32; what goes
// into a product is rounded to bf16 (values too, after each step), as are queries, keys, values and weights
// of attention. The same batches give the same bits on one kind of GPU. Unlike on the CPU, where a batch is
// cut into calls shows in the last bits.
//
// Tested by tests/model/train/cuda/device_training_test.cc (ten steps of a twin with the same rounding
// points, and of the CPU's).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cuda/causal_attention.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/matmul_backward.h"
#include "kernels/cuda/step_io.h"
#include "model/train/cuda/device_parameters.h"
#include "model/train/cuda/training_library.h"
#include "model/train/training_backend.h"

namespace clamor {

class DeviceTraining : public TrainingBackend {
 public:
  // `parameters`: of `config`; outlives this. INVALID_ARGUMENT where a size is one that the kernels do not
  // know; RESOURCE_EXHAUSTED if the device or the host has less memory than it takes, with both numbers.
  // Values are zero until Restore.
  static absl::StatusOr<std::unique_ptr<DeviceTraining>> Create(const ModelConfig& config,
                                                                const ModelParameters& parameters,
                                                                const DeviceTrainingLimits& limits);
  ~DeviceTraining() override { stream_.Wait(); }  // before what it uses goes

  void Restore(const TrainingState& host) override;
  void Fetch(const TrainingState& host) override;
  // Those of the last step, before clipping. [table.total()]
  void FetchGradients(std::span<float> host);

  // REQUIRES: no batch has more rows, no text more tokens than the limits say.
  Sums Step(std::span<const TrainingBatch> batches, float scale, const OptimizerStep& step) override;
  void Loss(const TrainingBatch& batch, double* loss) override;
  std::vector<int32_t> Guess(const TrainingBatch& batch, std::span<const int64_t> rows) override;

 private:
  // What the backward pass of a layer needs of its forward pass. Pointers into memory_, as all that follow;
  // rows are padded to blocks of kRowBlock.
  struct Kept {
    uint16_t* attention_input;  // [rows, hidden] normed
    float* qkv;                 // [rows, q_size + 2 * kv_size] as the product made it
    uint16_t* q;                // [rows, q_size] rotated
    uint16_t* keys;             // [rows, kv_size] in pages, rotated
    uint16_t* values;           // likewise
    uint16_t* attention;        // [rows, q_size]
    float* log_sum_exp;         // [rows, heads]
    float* middle;              // [rows, hidden] after attention
    uint16_t* mlp_input;        // [rows, hidden] normed
    float* gate_up;             // [rows, 2 * intermediate]
    uint16_t* gated;            // [rows, intermediate]
  };
  struct Scratch {
    float* projected;        // [rows, hidden]
    float* d;                // [rows, hidden]: the gradient of the residual stream
    uint16_t* d_rounded;     // [rows, hidden]: once more
    float* d_wide;           // [rows, max(q_size, intermediate)]
    float* d_normed;         // [rows, hidden]
    uint16_t* d_gate_up;     // [rows, 2 * intermediate]
    float* d_qkv;            // [rows, q_size + 2 * kv_size]
    uint16_t* d_projection;  // [rows, q_size + 2 * kv_size]: what the product's output gets
    uint16_t* d_attention;   // [rows, q_size] rounded
    float* products;         // [rows, heads]
    float* terms;            // [rows, max(hidden, q_size + kv_size)]: for the gradients of norms
    float* partial;          // of sums over rows
    uint16_t* normed;        // [rows, hidden]
    uint16_t* selected;      // [rows, hidden]
    float* d_selected;       // [rows, hidden]
    float* logits;           // [logit rows, PaddedVocab]
    uint16_t* d_logits;      // [logit rows, PaddedVocab]
    float* losses;           // [rows]
    int32_t* guesses;        // [rows]
    float* best_logits;      // [rows], of guesses
    float* log_sums;         // [rows], likewise
    float* squares;          // [pieces of all parameters]
    double* totals;          // of losses, of the squares of gradients
    float* cos;              // [max_length, head_dim / 2]
    float* sin;
  };
  // What is uploaded for a batch, on the device.
  struct Inputs {
    int64_t rows = 0, padded = 0;  // of the batch
    int64_t wanted = 0;            // rows with a target, or rows to guess behind
    int64_t tiles = 0;
    const int32_t *tokens, *positions, *slots, *order;  // [padded]
    const int32_t *which, *targets;                     // [padded], `wanted` of them count
    const kernels::cuda::TextTile* text_tiles;          // [tiles]
  };

  DeviceTraining(const ModelConfig& config, const ModelParameters& parameters,
                 const DeviceTrainingLimits& limits);
  int64_t qkv_size() const { return config_.q_size() + 2 * int64_t{config_.kv_size()}; }
  int64_t padded_vocab() const { return DeviceParameters::PaddedVocab(config_.vocab_size); }
  size_t Place();
  bool UploadRope();  // false: there is no pinned memory for it
  // `wanted`: the rows to select; `targets`: of those, or empty.
  Inputs UploadBatch(const TrainingBatch& batch, std::span<const int64_t> wanted,
                     std::span<const int32_t> targets);
  Inputs UploadTargets(const TrainingBatch& batch);

  Kept& KeptOf(size_t layer) { return kept_[limits_.recompute ? 0 : layer]; }
  const uint16_t* Rounded(int64_t offset) const { return parameters_.At(parameters_.rounded(), offset); }
  const float* Value(int64_t offset) const { return parameters_.At(parameters_.values(), offset); }
  float* Gradient(int64_t offset) const { return parameters_.At(parameters_.gradients(), offset); }

  void Learn(const TrainingBatch& batch, float scale);
  void Forward(const Inputs& in);
  void ForwardLayer(size_t layer, const Inputs& in, bool again);
  void Select(const Inputs& in);
  // Adds the losses to the total; if asked, also gradients, d that of the last hidden states.
  void Head(const Inputs& in, float scale, bool learn);
  void BackwardLayer(size_t layer, const Inputs& in);
  void Product(const uint16_t* x, const Inputs& in, int64_t weight, int64_t bias, int64_t n, int64_t k,
               float* y);
  // The gradients of Product; dx: [rows, k].
  void ProductBackward(const uint16_t* x, const uint16_t* dy, const Inputs& in, int64_t weight, int64_t bias,
                       int64_t n, int64_t k, float* dx);
  kernels::cuda::CausalAttentionArgs AttentionOf(size_t layer, const Inputs& in);
  // Adds the gradient of a norm's weight to it, and that of its input to d.
  void NormBackward(const float* x, const int32_t* which, int64_t rows, int64_t weight, const float* dy);
  double FetchTotal(int which);

  const ModelConfig config_;
  const ModelParameters& offsets_;
  const DeviceTrainingLimits limits_;
  const int64_t rows_;        // padded, of the largest batch
  const int64_t logit_rows_;  // held at once
  kernels::cuda::OwnedStream stream_;
  DeviceParameters parameters_;
  kernels::cuda::DeviceBuffer memory_;
  std::vector<float*> inputs_;  // [layers + 1] of [rows, hidden]
  std::vector<Kept> kept_;      // [layers], or one
  Scratch scratch_ = {};
  kernels::cuda::MatMulPlans plans_;
  kernels::cuda::GradientPlans gradients_;
  kernels::cuda::StepInputs uploads_;
  kernels::cuda::PinnedBuffer fetched_;
};

}  // namespace clamor
