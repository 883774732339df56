#include "model/train/trainer.h"

#include <cmath>

#include "gtest/gtest.h"
#include "kernels/cpu_target.h"
#include "tests/model/train/training_fixture.h"

namespace clamor {
namespace {

TrainerOptions GoldenOptions(const nlohmann::json& golden) {
  return {.noise = {.kind = NoiseKind::kNone},
          .learning_rate = golden.at("lr"),
          .min_learning_rate = 1.0,
          .warmup_steps = 0,
          .beta1 = golden.at("beta1"),
          .beta2 = golden.at("beta2"),
          .epsilon = golden.at("eps"),
          .weight_decay = golden.at("weight_decay"),
          .clip_norm = golden.at("clip_norm")};
}

TEST(TrainerTest, TenStepsOfPyTorch) {
  kernels::ThreadPool pool(2);
  const TrainingGolden golden;
  const auto model = LoadTrainable(TestData("training/model"), pool);
  const std::vector<Sample> unused = {{.ids = {1, 2}, .responses = {{1, 2}}}};
  Trainer trainer(model.get(), unused, {}, GoldenOptions(golden.options), &pool);
  ASSERT_EQ(golden.steps.size(), 10u);
  for (const TrainingGolden::Step& step : golden.steps) {
    const TrainingStep report = trainer.Step({&step.batch, 1});
    EXPECT_NEAR(report.loss, step.loss, 1e-5) << report.step;
    EXPECT_NEAR(report.gradient_norm, step.gradient_norm, 1e-4) << report.step;
    if (report.step == 1) {
      ExpectTensors(TestData("training/first_gradients.safetensors"), model->table(), model->gradients(), 1e-5, true);
    }
  }
  ExpectTensors(TestData("training/final_parameters.safetensors"), model->table(), model->values(), 2e-5, false);
}

}  // namespace
}  // namespace clamor
