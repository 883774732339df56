#include "model/train/trainer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/rope.h"
#include "kernels/status_macros.h"
#include "model/random.h"
#include "model/train/cpu_training.h"

namespace clamor {
namespace {

constexpr int64_t kMaxSteps = 1'000'000'000'000;

template <typename T>
absl::Status CheckRange(const char* field, T value, std::type_identity_t<T> low,
                        std::type_identity_t<T> high) {
  if (value >= low && value <= high) return absl::OkStatus();  // false for NaN
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", value, ", must be in [", low, ", ", high, "]"));
}

std::vector<int32_t> SizesOf(std::span<const Sample> samples) {
  std::vector<int32_t> sizes;
  for (const Sample& sample : samples) sizes.push_back(static_cast<int32_t>(sample.ids.size()));
  return sizes;
}

int32_t Longest(std::span<const Sample> samples) {
  size_t longest = 1;
  for (const Sample& sample : samples) longest = std::max(longest, sample.ids.size());
  return static_cast<int32_t>(longest);
}

bool InResponse(const Sample& sample, int32_t position) {
  return std::any_of(sample.responses.begin(), sample.responses.end(),
                     [&](const Span& s) { return position >= s.begin && position < s.end; });
}

}  // namespace

absl::Status TrainerOptions::Validate() const {
  CLAMOR_RETURN_IF_ERROR(noise.Validate());
  CLAMOR_RETURN_IF_ERROR(CheckRange("epochs", epochs, 1, 10'000));
  CLAMOR_RETURN_IF_ERROR(CheckRange("max_steps", max_steps, 0, kMaxSteps));
  CLAMOR_RETURN_IF_ERROR(CheckRange("batch_tokens", batch_tokens, 2, 1 << 24));
  CLAMOR_RETURN_IF_ERROR(CheckRange("micro_tokens", micro_tokens, 2, 1 << 24));
  CLAMOR_RETURN_IF_ERROR(CheckRange("lr", learning_rate, 0, 10));
  CLAMOR_RETURN_IF_ERROR(CheckRange("min_lr", min_learning_rate, 0, 1));
  CLAMOR_RETURN_IF_ERROR(CheckRange("warmup", warmup_steps, -1, kMaxSteps));
  CLAMOR_RETURN_IF_ERROR(CheckRange("beta1", beta1, 0, 0.999999));
  CLAMOR_RETURN_IF_ERROR(CheckRange("beta2", beta2, 0, 0.999999));
  CLAMOR_RETURN_IF_ERROR(CheckRange("epsilon", epsilon, 1e-30, 1));
  CLAMOR_RETURN_IF_ERROR(CheckRange("weight_decay", weight_decay, 0, 10));
  return CheckRange("clip_norm", clip_norm, 0, 1e9);
}

Trainer::Trainer(TrainableModel* model, std::span<const Sample> samples, NoiseVocabulary vocabulary,
                 const TrainerOptions& options, kernels::ThreadPool* pool,
                 std::unique_ptr<TrainingBackend> backend)
    : model_(*model),
      samples_(samples),
      vocabulary_(std::move(vocabulary)),
      options_(options),
      sizes_(SizesOf(samples)),
      first_moments_(model->table().total()),
      second_moments_(model->table().total()),
      backend_(std::move(backend)) {
  if (backend_ == nullptr) {
    const int32_t longest = std::max<int32_t>(Longest(samples), model->config().max_positions);
    backend_ = std::make_unique<CpuTraining>(model, State(), longest, options.recompute, pool);
  } else {
    backend_->Restore(State());
  }
  const int64_t limit = options.max_steps > 0 ? options.max_steps : std::numeric_limits<int64_t>::max();
  for (int32_t epoch = 0; epoch < options.epochs && steps_ < limit; ++epoch) {
    const std::vector<SampleIndices> plan =
        PlanEpoch(sizes_, options.batch_order, options.batch_tokens, options.seed, epoch);
    steps_ = std::min(limit, steps_ + static_cast<int64_t>(plan.size()));
    epoch_ends_.push_back(steps_);
  }
}

int32_t Trainer::Epoch() const {
  return static_cast<int32_t>(std::ranges::upper_bound(epoch_ends_, step_) - epoch_ends_.begin());
}

TrainingStep Trainer::Step() {
  const int32_t epoch = Epoch();
  if (epoch != planned_epoch_) {
    plan_ = PlanEpoch(sizes_, options_.batch_order, options_.batch_tokens, options_.seed, epoch);
    planned_epoch_ = epoch;
  }
  const SampleIndices& samples = plan_[step_ - (epoch > 0 ? epoch_ends_[epoch - 1] : 0)];
  std::vector<TrainingBatch> batches;
  for (const std::span<const int32_t> part : MicroBatches(samples, sizes_, options_.micro_tokens)) {
    batches.push_back(MakeBatch(epoch, part));
  }
  return Step(batches);
}

TrainingStep Trainer::Step(std::span<const TrainingBatch> batches) {
  TrainingStep report = {.step = step_ + 1, .epoch = Epoch(), .learning_rate = LearningRate()};
  for (const TrainingBatch& batch : batches) {
    report.tokens += batch.rows();
    report.targets += batch.CountTargets();
  }
  const double scale = 1.0 / static_cast<double>(std::max<int64_t>(1, report.targets));
  const TrainingBackend::Sums sums =
      backend_->Step(batches, static_cast<float>(scale), NextStep(report.learning_rate));
  report.loss = scale * sums.loss;
  report.gradient_norm = sums.gradient_norm;
  return report;
}

TrainingBatch Trainer::MakeBatch(int32_t epoch, std::span<const int32_t> samples) {
  TrainingBatch batch;
  std::vector<int64_t> noised_rows;
  std::vector<Span> noised;
  for (const int32_t index : samples) {
    const Sample& sample = samples_[index];
    const std::vector<int32_t> inputs =
        NoisyInputs(sample, options_.noise, vocabulary_, MixSeed(options_.seed, epoch, index), &noised);
    for (const Span& span : noised) {
      for (int32_t i = span.begin; i < span.end; ++i) noised_rows.push_back(batch.rows() + i);
    }
    batch.Add(inputs, sample.ids, [&](int32_t i) { return options_.loss_on_all || InResponse(sample, i); });
  }
  if (options_.noise.kind == NoiseKind::kJacobi && !noised_rows.empty()) {
    // What the model itself would have written there, had it read the noise: one step of Jacobi decoding.
    for (int64_t& row : noised_rows) --row;
    const std::vector<int32_t> guesses = backend_->Guess(batch, noised_rows);
    for (size_t i = 0; i < guesses.size(); ++i) {
      const bool usable = guesses[i] < vocabulary_.size && !vocabulary_.IsSpecial(guesses[i]);
      if (usable) batch.inputs[noised_rows[i] + 1] = guesses[i];
    }
  }
  return batch;
}

double Trainer::LearningRate() const {
  const int64_t total = steps();
  const int64_t warmup =
      options_.warmup_steps >= 0 ? options_.warmup_steps : std::max<int64_t>(20, total / 50);
  const double warm =
      warmup == 0 ? 1.0 : std::min(1.0, static_cast<double>(step_ + 1) / static_cast<double>(warmup));
  const double done = total == 0 ? 0.0 : static_cast<double>(step_) / static_cast<double>(total);
  const double cosine = 0.5 * (1.0 + kernels::Cos(std::numbers::pi * done));
  const double low = options_.min_learning_rate;
  return options_.learning_rate * warm * (low + (1.0 - low) * cosine);
}

OptimizerStep Trainer::NextStep(double learning_rate) {
  ++step_;
  beta1_power_ *= options_.beta1;
  beta2_power_ *= options_.beta2;
  return {.learning_rate = static_cast<float>(learning_rate),
          .beta1 = static_cast<float>(options_.beta1),
          .beta2 = static_cast<float>(options_.beta2),
          .epsilon = static_cast<float>(options_.epsilon),
          .weight_decay = static_cast<float>(options_.weight_decay),
          .correction1 = static_cast<float>(1.0 - beta1_power_),
          .correction2_root = static_cast<float>(std::sqrt(1.0 - beta2_power_)),
          .clip_norm = options_.clip_norm};
}

double Trainer::HeldOutLoss(std::span<const Sample> samples) {
  const std::vector<int32_t> sizes = SizesOf(samples);
  std::vector<int32_t> all(samples.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>(i);
  double loss = 0;
  int64_t targets = 0;
  for (const std::span<const int32_t> part : MicroBatches(all, sizes, options_.micro_tokens)) {
    TrainingBatch batch;
    for (const int32_t index : part) {
      const Sample& sample = samples[index];
      batch.Add(sample.ids, sample.ids, [&](int32_t i) { return InResponse(sample, i); });
    }
    targets += batch.CountTargets();
    backend_->Loss(batch, &loss);
  }
  return loss / static_cast<double>(std::max<int64_t>(1, targets));
}

void Trainer::Resume(int64_t step) {
  beta1_power_ = beta2_power_ = 1;
  for (step_ = 0; step_ < step; ++step_) {
    beta1_power_ *= options_.beta1;
    beta2_power_ *= options_.beta2;
  }
  backend_->Restore(State());
}

}  // namespace clamor
