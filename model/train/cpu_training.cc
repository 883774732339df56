#include "model/train/cpu_training.h"

#include <algorithm>
#include <cmath>

#include "kernels/adamw.h"

namespace clamor {

CpuTraining::CpuTraining(TrainableModel* model, const TrainingState& state, int32_t max_length,
                         bool recompute, kernels::ThreadPool* pool)
    : model_(*model), state_(state), pool_(*pool), pass_(model->config(), max_length, recompute) {}

void CpuTraining::Restore(const TrainingState&) { model_.Pack(pool_); }
void CpuTraining::Fetch(const TrainingState&) {}

TrainingBackend::Sums CpuTraining::Step(std::span<const TrainingBatch> batches, float scale,
                                        const OptimizerStep& step) {
  Sums sums;
  std::ranges::fill(model_.gradients(), 0.0f);
  for (const TrainingBatch& batch : batches) pass_.Learn(model_, batch, scale, &sums.loss, pool_);
  pass_.Finish(model_, pool_);

  const std::span<const float> gradients = model_.gradients();
  const ParameterTable& table = model_.table();
  sums.gradient_norm = std::sqrt(kernels::SumOfSquares(gradients.data(), table.total(), pool_));
  kernels::AdamWStep update = {
      .learning_rate = step.learning_rate,
      .beta1 = step.beta1,
      .beta2 = step.beta2,
      .epsilon = step.epsilon,
      .correction1 = step.correction1,
      .correction2_root = step.correction2_root,
      .gradient_scale = step.clip_norm > 0
                            ? static_cast<float>(std::min(1.0, step.clip_norm / (sums.gradient_norm + 1e-6)))
                            : 1.0f,
  };
  for (const Parameter& p : table.parameters()) {
    update.weight_decay = p.decays ? step.weight_decay : 0.0f;
    kernels::AdamW(update, gradients.data() + p.offset, state_.values.data() + p.offset,
                   state_.first_moments.data() + p.offset, state_.second_moments.data() + p.offset, p.size,
                   pool_);
  }
  model_.Pack(pool_);
  return sums;
}

void CpuTraining::Loss(const TrainingBatch& batch, double* loss) { pass_.Loss(model_, batch, loss, pool_); }

std::vector<int32_t> CpuTraining::Guess(const TrainingBatch& batch, std::span<const int64_t> rows) {
  return pass_.Guess(model_, batch, rows, pool_);
}

}  // namespace clamor
