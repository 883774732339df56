// Training on the device: ten steps beside a dull twin with the same rounding points and beside the CPU, all
// four families' gradients, and the same bits on every schedule.
#include "model/train/cuda/device_training.h"

#include <cmath>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "model/train/cpu_training.h"
#include "nlohmann/json.hpp"
#include "tests/kernels/on_target.h"
#include "tests/model/cuda/schedule.h"
#include "tests/model/train/cuda/dull_device_trainer.h"
#include "tests/model/train/training_fixture.h"

namespace clamor {
namespace {

using nlohmann::json;

const std::string kModel = test::Testdata("tiny-qwen2");

// What rounding to bf16 does to a model; the twin's is the same, so that only the order of sums is left.
// Where one is the reason that a number is rounded the other way, what follows differs by more: gradients,
// which go through twice as many products as losses, by a few times as much.
constexpr double kRounding = 2e-2, kSums = 1e-3, kSumsOfGradients = 4e-3;

// |a - b| / |b|.
template <class A, class B>
double Distance(const A& a, const B& b) {
  EXPECT_EQ(a.size(), b.size());
  double misses = 0, squares = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    misses += std::pow(double{a[i]} - double{b[i]}, 2);
    squares += std::pow(double{b[i]}, 2);
  }
  return std::sqrt(misses / squares);
}

// A model with its moments on the host, and what trains it there or on the device.
struct Training {
  explicit Training(const std::string& dir) : model(LoadTrainable(dir, pool)), parameters(model->config()) {
    first_moments.resize(parameters.table.total());
    second_moments = first_moments;
  }

  TrainingState state() { return {model->values(), first_moments, second_moments}; }
  std::unique_ptr<DeviceTraining> OnDevice(bool recompute = false) {
    auto training = DeviceTraining::Create(model->config(), parameters,
                                           {.rows = 200, .max_length = 64, .recompute = recompute});
    EXPECT_TRUE(training.ok()) << training.status();
    (*training)->Restore(state());
    return *std::move(training);
  }
  std::vector<float> GradientsOf(DeviceTraining& training) {
    std::vector<float> gradients(parameters.table.total());
    training.FetchGradients(gradients);
    return gradients;
  }

  kernels::ThreadPool pool{1};
  std::unique_ptr<TrainableModel> model;
  ModelParameters parameters;
  std::vector<float> first_moments, second_moments;
};

OptimizerStep AdamWAt(int step) {
  return {.learning_rate = 1e-3f,
          .beta1 = 0.9f,
          .beta2 = 0.95f,
          .epsilon = 1e-8f,
          .weight_decay = 0.1f,
          .correction1 = static_cast<float>(1 - std::pow(0.9, step)),
          .correction2_root = static_cast<float>(std::sqrt(1 - std::pow(0.95, step))),
          .clip_norm = 1.0};
}

float ScaleOf(const TrainingBatch& batch) { return 1.0f / static_cast<float>(batch.CountTargets()); }

class DeviceTrainingTest : public testing::Test {
 protected:
  void SetUp() override {
    if (kernels::cuda::DeviceCount() == 0) GTEST_SKIP() << "there is no GPU";
  }
  void TearDown() override { SetSchedule(0); }
};

TEST_F(DeviceTrainingTest, TenStepsOfTheTwinAndOfTheCpu) {
  const json golden = json::parse(test::ReadFile(test::Testdata("training") + "/golden.json"));
  Training on_device(kModel), on_cpu(kModel);
  const auto device = on_device.OnDevice();
  CpuTraining cpu(on_cpu.model.get(), on_cpu.state(), 128, /*recompute=*/false, &on_cpu.pool);
  DullDeviceTrainer twin(on_cpu.model->config(), on_cpu.parameters, on_cpu.model->values());
  int number = 0;
  for (const json& expected : golden.at("steps")) {
    TrainingBatch batch;
    for (const json& row : expected.at("rows")) {
      const auto labels = row.at("labels").get<std::vector<int32_t>>();
      batch.Add(row.at("input_ids").get<std::vector<int32_t>>(), labels,
                [&](int32_t i) { return labels[i] >= 0; });
    }
    const OptimizerStep step = AdamWAt(++number);
    const float scale = ScaleOf(batch);
    const auto got = device->Step({&batch, 1}, scale, step), of_cpu = cpu.Step({&batch, 1}, scale, step),
               of_twin = twin.Step(batch, scale, step);
    EXPECT_NEAR(got.loss, of_twin.loss, kSums * of_twin.loss) << number;
    EXPECT_NEAR(got.loss, of_cpu.loss, kRounding * of_cpu.loss) << number;
    EXPECT_NEAR(got.gradient_norm, of_twin.gradient_norm, kSumsOfGradients * of_twin.gradient_norm) << number;
    EXPECT_NEAR(got.gradient_norm, of_cpu.gradient_norm, kRounding * of_cpu.gradient_norm) << number;
    if (number > 1) continue;
    EXPECT_LT(Distance(on_device.GradientsOf(*device), twin.gradients), kSumsOfGradients);
    EXPECT_LT(Distance(on_device.GradientsOf(*device), on_cpu.model->gradients()), kRounding);
  }
  EXPECT_EQ(number, 10);
  const std::vector<float> start(on_device.model->values().begin(), on_device.model->values().end());
  device->Fetch(on_device.state());
  EXPECT_GT(Distance(on_device.model->values(), start), kRounding) << "nothing was learnt";
  EXPECT_LT(Distance(on_device.model->values(), twin.values), kSums);
  EXPECT_LT(Distance(on_device.model->values(), on_cpu.model->values()), kRounding);
  EXPECT_LT(Distance(on_device.first_moments, twin.first_moments), kRounding);
  EXPECT_LT(Distance(on_device.second_moments, twin.second_moments), kRounding);
}

// What one step leaves behind.
struct Left {
  double loss, norm;
  std::vector<float> gradients, values;
  bool operator==(const Left&) const = default;
};

Left OneStep(std::span<const TrainingBatch> batches, bool recompute = false) {
  Training run(kModel);
  const auto device = run.OnDevice(recompute);
  const auto sums = device->Step(batches, ScaleOf(batches[0]), AdamWAt(1));
  Left left = {
      .loss = sums.loss, .norm = sums.gradient_norm, .gradients = run.GradientsOf(*device), .values = {}};
  device->Fetch(run.state());
  left.values.assign(run.model->values().begin(), run.model->values().end());
  return left;
}

TEST_F(DeviceTrainingTest, NeitherSchedulesNorMemoryChangeABit) {
  Random random(3);
  const TrainingBatch batch = RandomBatch({9, 1, 6}, 640, random);
  const Left expected = OneStep({&batch, 1});
  EXPECT_TRUE(OneStep({&batch, 1}, /*recompute=*/true) == expected);
  for (int seed = 1; seed <= 20; ++seed) {
    SetSchedule(seed);
    EXPECT_TRUE(OneStep({&batch, 1}, seed % 4 == 0) == expected) << "schedule " << seed;
  }
}

// Cut anywhere, a batch has the same gradient but for the order of sums; what an earlier batch left in
// surplus rows does not show.
TEST_F(DeviceTrainingTest, BatchesAddUp) {
  Random random(4);
  const TrainingBatch whole = RandomBatch({30, 40, 5, 64, 7}, 640, random);
  const TrainingBatch parts[] = {Texts(whole, 0, 4), Texts(whole, 4, 5)};
  const auto gradients_of = [&](std::span<const TrainingBatch> batches) {
    Training run(kModel);
    const auto device = run.OnDevice();
    device->Step(batches, ScaleOf(whole), AdamWAt(1));
    return run.GradientsOf(*device);
  };
  EXPECT_LT(Distance(gradients_of(parts), gradients_of({&whole, 1})), 1e-5);
}

class DeviceFamiliesTest : public DeviceTrainingTest, public testing::WithParamInterface<std::string> {};

TEST_P(DeviceFamiliesTest, GradientsLossesAndGuessesAreThoseOfTheCpu) {
  const std::string dir = test::Testdata("tiny-" + GetParam());
  Training on_device(dir), on_cpu(dir);
  const auto device = on_device.OnDevice();
  CpuTraining cpu(on_cpu.model.get(), on_cpu.state(), 128, /*recompute=*/false, &on_cpu.pool);
  DullDeviceTrainer twin(on_cpu.model->config(), on_cpu.parameters, on_cpu.model->values());
  Random random(5);
  const TrainingBatch batch = RandomBatch({33, 1, 21}, on_cpu.model->config().vocab_size, random);
  double loss = 0, expected = 0;
  device->Loss(batch, &loss);
  cpu.Loss(batch, &expected);
  EXPECT_NEAR(loss, expected, kRounding * expected);

  const std::vector<int64_t> rows = {3, 30, 40};
  const std::vector<int32_t> guesses = device->Guess(batch, rows), of_cpu = cpu.Guess(batch, rows);
  EXPECT_EQ(guesses, of_cpu);

  const float scale = ScaleOf(batch);
  device->Step({&batch, 1}, scale, AdamWAt(1));
  cpu.Step({&batch, 1}, scale, AdamWAt(1));
  twin.Step(batch, scale, AdamWAt(1));
  const std::vector<float> gradients = on_device.GradientsOf(*device);
  EXPECT_LT(Distance(gradients, twin.gradients), kSumsOfGradients);
  EXPECT_LT(Distance(gradients, on_cpu.model->gradients()), kRounding);
}

INSTANTIATE_TEST_SUITE_P(Families, DeviceFamiliesTest, testing::Values("llama", "qwen2", "qwen3", "mistral"),
                         [](const auto& info) { return info.param; });

// Noise, the schedule and held-out losses as on the CPU; a run goes on from a checkpoint as if nothing had
// happened.
TEST_F(DeviceTrainingTest, TheTrainerRunsOnIt) {
  const std::vector<Sample> samples = RandomSamples({14, 20, 9}, 600, 3);
  TrainerOptions options = OptionsWith(NoiseKind::kJacobi);
  options.epochs = 3;  // of one step each
  options.learning_rate = 1e-3;
  struct State {
    std::vector<float> values, first, second;
    double loss;
    double held_out;
  };
  const auto run = [&](bool on_device, const State* from) {
    Training training(kModel);
    if (from != nullptr) std::ranges::copy(from->values, training.model->values().begin());
    Trainer trainer(training.model.get(), samples, ThirdsAreSpecial(training.model->config()), options,
                    &training.pool, on_device ? training.OnDevice() : nullptr);
    if (from != nullptr) {
      std::ranges::copy(from->first, trainer.first_moments().begin());
      std::ranges::copy(from->second, trainer.second_moments().begin());
      trainer.Resume(1);
    }
    std::vector<State> states;
    while (!trainer.done()) {
      const TrainingStep step = trainer.Step();
      trainer.Fetch();
      const auto values = training.model->values(), first = trainer.first_moments(),
                 second = trainer.second_moments();
      states.push_back({{values.begin(), values.end()},
                        {first.begin(), first.end()},
                        {second.begin(), second.end()},
                        step.loss,
                        trainer.HeldOutLoss(samples)});
    }
    return states;
  };
  const std::vector<State> device = run(true, nullptr), cpu = run(false, nullptr);
  ASSERT_EQ(device.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(device[i].loss, cpu[i].loss, kRounding * cpu[i].loss) << i;
    EXPECT_NEAR(device[i].held_out, cpu[i].held_out, kRounding * cpu[i].held_out) << i;
  }
  EXPECT_TRUE(kernels::SameBits(run(true, &device[0]).back().values, device.back().values));
}

TEST_F(DeviceTrainingTest, WhatDoesNotFitIsRefused) {
  const ModelConfig config = ConfigAt(test::Testdata("tiny-llama"));
  const ModelParameters parameters(config);
  const auto too_many = DeviceTraining::Create(config, parameters, {.rows = 70000, .max_length = 64});
  EXPECT_TRUE(absl::IsInvalidArgument(too_many.status())) << too_many.status();
  ModelConfig odd = config;
  odd.head_dim = 24;
  EXPECT_TRUE(absl::IsInvalidArgument(
      DeviceTraining::Create(odd, parameters, {.rows = 64, .max_length = 64}).status()));
  ModelConfig huge = config;
  huge.layers = 1;
  huge.intermediate_size = 1 << 28;
  const auto too_large = DeviceTraining::Create(huge, parameters, {.rows = 65000, .max_length = 64});
  EXPECT_TRUE(absl::IsResourceExhausted(too_large.status())) << too_large.status();
}

}  // namespace
}  // namespace clamor
