// Where the arithmetic of a step of training is done: on the CPU (cpu_training.h), or on a GPU
// (model/train/cuda).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/train/training_pass.h"

namespace clamor {

// AdamW of one step, as kernels/adamw.h, for all tensors.
struct OptimizerStep {
  float learning_rate = 0;
  float beta1 = 0, beta2 = 0, epsilon = 0;
  float weight_decay = 0;  // of matrices
  float correction1 = 1, correction2_root = 1;
  double clip_norm = 0;  // 0: no clipping
};

// Borrowed arrays of one ParameterTable, [table.total()] each.
struct TrainingState {
  std::span<float> values, first_moments, second_moments;
};

// One thread at a time.
class TrainingBackend {
 public:
  virtual ~TrainingBackend() = default;

  // Values and moments, as the host has them, become those of the backend, and the other way round.
  virtual void Restore(const TrainingState& host) = 0;
  virtual void Fetch(const TrainingState& host) = 0;

  struct Sums {
    double loss = 0;           // of all targets
    double gradient_norm = 0;  // before clipping
  };
  // One step along the gradient of scale * the losses of all targets of `batches`.
  virtual Sums Step(std::span<const TrainingBatch> batches, float scale, const OptimizerStep& step) = 0;

  // Adds the losses of all targets to *loss.
  virtual void Loss(const TrainingBatch& batch, double* loss) = 0;
  // The most likely token after each of `rows`.
  virtual std::vector<int32_t> Guess(const TrainingBatch& batch, std::span<const int64_t> rows) = 0;
};

}  // namespace clamor
