// Training on the CPU.
//
// Tested by tests/model/train/trainer_test.cc.
#pragma once

#include "kernels/thread_pool.h"
#include "model/train/training_backend.h"

namespace clamor {

// Trains the model's own values, so Fetch has nothing to do and Restore only packs them.
class CpuTraining : public TrainingBackend {
 public:
  // `model`, the arrays of `state` and `pool` must outlive this. `max_length` and `recompute` as
  // TrainingPass.
  CpuTraining(TrainableModel* model, const TrainingState& state, int32_t max_length, bool recompute,
              kernels::ThreadPool* pool);

  void Restore(const TrainingState& host) override;
  void Fetch(const TrainingState& host) override;
  Sums Step(std::span<const TrainingBatch> batches, float scale, const OptimizerStep& step) override;
  void Loss(const TrainingBatch& batch, double* loss) override;
  std::vector<int32_t> Guess(const TrainingBatch& batch, std::span<const int64_t> rows) override;

 private:
  TrainableModel& model_;
  const TrainingState state_;
  kernels::ThreadPool& pool_;
  TrainingPass pass_;
};

}  // namespace clamor
