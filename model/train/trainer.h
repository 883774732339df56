// MSN training, step by step: which samples, what noise, gradients, the optimizer. No clock, no files: the
// caller decides when to evaluate, to save and to stop.
//
// A step is a pure function of (values, moments, options, data, step number), in bits: not of threads, the
// CPU target, how a batch is cut for memory (on a GPU: of that too), or how often the run was interrupted.
//
// Tested by tests/model/train/trainer_test.cc (ten steps of PyTorch's) and trainer_bits_test.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/thread_pool.h"
#include "model/train/batch_plan.h"
#include "model/train/sample.h"
#include "model/train/sample_noise.h"
#include "model/train/trainable_model.h"
#include "model/train/training_backend.h"

namespace clamor {

struct TrainerOptions {
  NoiseOptions noise;
  bool loss_on_all = false;  // of every token after the first, not of responses alone

  int32_t epochs = 2;
  int64_t max_steps = 0;        // 0: all of the epochs
  int64_t batch_tokens = 4096;  // of one optimizer step
  BatchOrder batch_order = BatchOrder::kMixed;
  int64_t micro_tokens = 512;  // held in memory at once, and in caches; changes no bit on the CPU
  bool recompute = false;      // activations are computed twice instead of kept; changes no bit

  double learning_rate = 5e-4;
  double min_learning_rate = 0.1;  // at the end, as a part of learning_rate
  int64_t warmup_steps = -1;       // -1: the larger of 20 and a fiftieth of all steps
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  double weight_decay = 0.1;  // of matrices
  double clip_norm = 1.0;     // 0: no clipping

  uint64_t seed = 1;

  // INVALID_ARGUMENT names the field, its value and its range.
  absl::Status Validate() const;
};

struct TrainingStep {
  int64_t step = 0;          // steps done, this one included
  int32_t epoch = 0;         // from 0
  double loss = 0;           // mean over the targets
  double gradient_norm = 0;  // before clipping
  double learning_rate = 0;
  int64_t tokens = 0;   // read
  int64_t targets = 0;  // learnt from
};

class Trainer {
 public:
  // `model`, `samples` and `pool` must outlive this. `backend` gets the model's values; null: the CPU trains.
  // REQUIRES: options.Validate().ok(), samples not empty, none longer than options.batch_tokens or model's
  // context.
  Trainer(TrainableModel* model, std::span<const Sample> samples, NoiseVocabulary vocabulary,
          const TrainerOptions& options, kernels::ThreadPool* pool,
          std::unique_ptr<TrainingBackend> backend = nullptr);

  int64_t steps() const { return steps_; }  // of the whole run
  int64_t step() const { return step_; }    // done
  bool done() const { return step_ == steps(); }

  // REQUIRES: !done().
  TrainingStep Step();
  // The same from given batches, each cut for memory already: for tests against another implementation.
  TrainingStep Step(std::span<const TrainingBatch> batches);

  // Mean loss over the response tokens of `samples`, without noise.
  double HeldOutLoss(std::span<const Sample> samples);

  // Brings the model's values and the moments up to date, wherever they are trained.
  void Fetch() { backend_->Fetch(State()); }
  // What a checkpoint holds besides the values: moments, and the number of steps done.
  std::span<float> first_moments() { return first_moments_; }
  std::span<float> second_moments() { return second_moments_; }
  // Goes on after `step` steps; values and moments were restored by the caller.
  void Resume(int64_t step);

 private:
  int32_t Epoch() const;  // of the next step
  TrainingBatch MakeBatch(int32_t epoch, std::span<const int32_t> samples);
  double LearningRate() const;
  TrainingState State() { return {model_.values(), first_moments_, second_moments_}; }
  // Counts a step.
  OptimizerStep NextStep(double learning_rate);

  TrainableModel& model_;
  const std::span<const Sample> samples_;
  const NoiseVocabulary vocabulary_;
  const TrainerOptions options_;
  std::vector<int32_t> sizes_;       // of the samples
  std::vector<int64_t> epoch_ends_;  // [epochs] steps done by the end of each
  int64_t steps_ = 0;
  int32_t planned_epoch_ = -1;  // of plan_: one epoch at a time, however many there are
  std::vector<SampleIndices> plan_;
  std::vector<float> first_moments_, second_moments_;
  std::unique_ptr<TrainingBackend> backend_;
  int64_t step_ = 0;
  double beta1_power_ = 1, beta2_power_ = 1;  // to the power of step_
};

}  // namespace clamor
