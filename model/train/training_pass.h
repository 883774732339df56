// The forward and backward pass over whole texts: the loss, and the gradients of all that is trained.
//
// The forward pass computes what Transformer::Forward does, to the bit. Losses and gradients do not depend on
// how a batch is cut into calls of Learn, on threads, on the CPU target or on `recompute`: every sum over
// rows is one chain in row order (kernels/matmul_backward.h).
//
// Tested by tests/model/train/training_pass_test.cc (central differences) and trainer_test.cc (PyTorch's
// gradients).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/packed_rows.h"
#include "kernels/rope.h"
#include "kernels/thread_pool.h"
#include "model/train/trainable_model.h"

namespace clamor {

// Texts one behind the other, without padding.
struct TrainingBatch {
  static constexpr int32_t kNoTarget = -1;

  std::vector<int32_t> inputs;        // [rows] what the model reads
  std::vector<int32_t> targets;       // [rows] what it should say next, or kNoTarget
  std::vector<int64_t> starts = {0};  // text t is rows [starts[t], starts[t + 1])

  int64_t rows() const { return static_cast<int64_t>(inputs.size()); }
  // Appends a text whose position i reads inputs[i] and should say labels[i + 1] if wanted(i + 1).
  template <typename Wanted>
  void Add(std::span<const int32_t> noisy, std::span<const int32_t> labels, Wanted wanted) {
    const auto size = static_cast<int32_t>(noisy.size());
    inputs.insert(inputs.end(), noisy.begin(), noisy.end());
    for (int32_t i = 1; i < size; ++i) targets.push_back(wanted(i) ? labels[i] : kNoTarget);
    targets.push_back(kNoTarget);
    starts.push_back(rows());
  }
  int64_t CountTargets() const;
};

class TrainingPass {
 public:
  // No text may be longer than `max_length`. With `recompute`, only the input of each layer is kept for the
  // backward pass, which computes the rest once more.
  TrainingPass(const ModelConfig& config, int32_t max_length, bool recompute);

  // Adds the losses of all targets to *loss, and the gradient of scale * those to model.gradients(), but for
  // that of the embedding's look-up, which Finish adds.
  void Learn(TrainableModel& model, const TrainingBatch& batch, float scale, double* loss,
             kernels::ThreadPool& pool);
  // Completes the gradients of the batches since the last call.
  void Finish(TrainableModel& model, kernels::ThreadPool& pool);

  // Adds the losses of all targets to *loss.
  void Loss(TrainableModel& model, const TrainingBatch& batch, double* loss, kernels::ThreadPool& pool);
  // The most likely token after each of `rows`.
  std::vector<int32_t> Guess(TrainableModel& model, const TrainingBatch& batch, std::span<const int64_t> rows,
                             kernels::ThreadPool& pool);

  // Bytes that Learn holds for a batch of `rows` rows.
  static int64_t Bytes(const ModelConfig& config, int64_t rows, int64_t max_length, bool recompute);

 private:
  // What the backward pass of a layer needs of its forward pass.
  struct Layer {
    kernels::PackedRows attention_input, mlp_input;  // [rows, hidden] normed
    std::vector<float> raw_qk;      // [rows, q_size + kv_size] before q/k norm; unused without
    std::vector<float> qkv;         // [rows, q_size + 2 * kv_size] rotated
    kernels::PackedRows attention;  // [rows, q_size]
    std::vector<float> middle;      // [rows, hidden] after attention
    std::vector<float> gate_up;     // [rows, 2 * intermediate]
    kernels::PackedRows gated;      // [rows, intermediate]
  };
  Layer& LayerOf(size_t i) { return kept_[recompute_ ? 0 : i]; }
  float* InputOf(size_t i, int64_t rows);  // [rows, hidden], of layer i; the last one is the output

  void Forward(TrainableModel& model, const TrainingBatch& batch, kernels::ThreadPool& pool);
  void ForwardLayer(TrainableModel& model, size_t i, const TrainingBatch& batch, kernels::ThreadPool& pool);
  void BackwardLayer(TrainableModel& model, size_t i, const TrainingBatch& batch, float* d,
                     kernels::ThreadPool& pool);
  // Adds the losses of all targets; with d (zero, [rows, hidden]), also gradients, d that of the last hidden
  // states.
  void Head(TrainableModel& model, const TrainingBatch& batch, float scale, double* loss, float* d,
            kernels::ThreadPool& pool);
  // Normed hidden states of `rows`, [rows, hidden], in normed_; those before the norm in selected_.
  void Select(const TrainableModel& model, const TrainingBatch& batch, std::span<const int64_t> rows,
              kernels::ThreadPool& pool);

  const ModelConfig config_;
  const bool recompute_;
  const kernels::RopeTable rope_;
  std::vector<int32_t> positions_;
  std::vector<std::vector<float>> inputs_;  // [layers + 1] of [rows, hidden]
  std::vector<Layer> kept_;                 // [layers], or one
  std::vector<float> normed_, wide_, projected_, d_, d_normed_, d_qkv_, selected_, logits_, losses_;
  kernels::PackedRows packed_normed_, packed_d_;
  std::vector<int64_t> selected_rows_;
  // Of the embedding's look-up, until Finish.
  std::vector<int32_t> looked_up_;
  std::vector<float> d_looked_up_;
};

}  // namespace clamor
