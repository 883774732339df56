#include "model/train/trainer.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numbers>

#include "gtest/gtest.h"
#include "model/random.h"
#include "nlohmann/json.hpp"
#include "tests/model/train/training_fixture.h"

namespace clamor {
namespace {

using nlohmann::json;

// tests/testdata/training: a model, ten batches of noisy rows, and what became of them.
TrainerOptions GoldenOptions(const json& golden) {
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

// The largest difference from a file's tensors, relative to the largest value of each if asked.
void ExpectTensors(const std::string& file, const ParameterTable& table, std::span<const float> values,
                   double tolerance, bool relative) {
  const test::TempDir dir;
  std::filesystem::copy_file(file, dir / "model.safetensors");
  const test::RawTensors tensors = test::ReadRawTensors(dir.path());
  ASSERT_EQ(tensors.size(), table.tensors().size());
  for (size_t t = 0; t < table.tensors().size(); ++t) {
    const test::RawTensor& expected = tensors.at(table.tensors()[t].name);
    const std::span<const float> actual = table.Slice(values, t);
    ASSERT_EQ(expected.size(), static_cast<int64_t>(actual.size()));
    double largest = 0, worst = 0;
    for (int64_t i = 0; i < expected.size(); ++i) {
      largest = std::max(largest, std::abs(double{expected[i]}));
      worst = std::max(worst, std::abs(double{actual[i]} - expected[i]));
    }
    EXPECT_LE(worst, tolerance * (relative ? largest : 1.0)) << table.tensors()[t].name << ", " << largest;
  }
}

TEST(TrainerTest, TenStepsOfPyTorch) {
  kernels::ThreadPool pool(1);
  const std::string dir = test::Testdata("training");
  const json golden = json::parse(test::ReadFile(dir + "/golden.json"));
  const auto model = LoadTrainable(dir + "/model", pool);
  const std::vector<Sample> unused = {{.ids = {1, 2}, .responses = {{1, 2}}}};
  Trainer trainer(model.get(), unused, {}, GoldenOptions(golden.at("options")), &pool);
  ASSERT_EQ(golden.at("steps").size(), 10u);
  for (const json& expected : golden.at("steps")) {
    TrainingBatch batch;
    for (const json& row : expected.at("rows")) {
      const auto labels = row.at("labels").get<std::vector<int32_t>>();
      batch.Add(row.at("input_ids").get<std::vector<int32_t>>(), labels,
                [&](int32_t i) { return labels[i] >= 0; });
    }
    const TrainingStep step = trainer.Step({&batch, 1});
    EXPECT_NEAR(step.loss, expected.at("loss"), 1e-5) << step.step;
    EXPECT_NEAR(step.gradient_norm, expected.at("gradient_norm"), 1e-4) << step.step;
    if (step.step == 1) {
      ExpectTensors(dir + "/first_gradients.safetensors", model->table(), model->gradients(), 1e-5, true);
    }
  }
  ExpectTensors(dir + "/final_parameters.safetensors", model->table(), model->values(), 2e-5, false);
}

class TrainerWith : public testing::TestWithParam<NoiseKind> {};
INSTANTIATE_TEST_SUITE_P(Training, TrainerWith,
                         testing::Values(NoiseKind::kNone, NoiseKind::kAhead, NoiseKind::kUniform,
                                         NoiseKind::kJacobi),
                         [](const auto& info) { return std::string(NoiseKindName(info.param)); });

bool IsWanted(const Sample& sample, int32_t position) {
  for (const Span& response : sample.responses) {
    if (position >= response.begin && position < response.end) return true;
  }
  return false;
}

// At a learning rate of 0 the model stays what the decoder runs.
TEST_P(TrainerWith, EachStepReadsWhatTheNoiseSays) {
  const Subject subject = {"qwen3"};
  kernels::ThreadPool pool(1);
  Decoder decoder(subject.dir(), WeightFormat::kF32);
  const auto model = LoadTrainable(subject.dir(), pool);
  const NoiseVocabulary vocabulary = ThirdsAreSpecial(model->config());
  const std::vector<Sample> samples = RandomSamples(kSizes, model->config().vocab_size, 4);
  for (const bool loss_on_all : {false, true}) {
    TrainerOptions options = OptionsWith(GetParam());
    options.learning_rate = 0;
    options.loss_on_all = loss_on_all;
    Trainer trainer(model.get(), samples, vocabulary, options, &pool);
    int64_t steps = 0, guessed = 0, refused = 0;
    for (int32_t epoch = 0; epoch < options.epochs; ++epoch) {
      for (const SampleIndices& batch :
           PlanEpoch(kSizes, options.batch_order, options.batch_tokens, options.seed, epoch)) {
        int64_t tokens = 0, targets = 0;
        double loss = 0;
        for (const int32_t index : batch) {
          const Sample& sample = samples[index];
          std::vector<Span> noised;
          std::vector<int32_t> inputs =
              NoisyInputs(sample, options.noise, vocabulary, MixSeed(options.seed, epoch, index), &noised);
          if (GetParam() == NoiseKind::kJacobi) {
            const std::vector<Decoder::Row> said = decoder.Read(inputs);
            for (const Span& span : noised) {
              for (int32_t i = span.begin; i < span.end; ++i) {
                const int32_t guess = said[i - 1].best;
                const bool usable = guess < vocabulary.size && guess % 3 != 0;
                if (usable) inputs[i] = guess;
                ++(usable ? guessed : refused);
              }
            }
          }
          const std::vector<Decoder::Row> rows = decoder.Read(inputs);
          const auto size = static_cast<int32_t>(sample.ids.size());
          tokens += size;
          for (int32_t i = 1; i < size; ++i) {
            if (!loss_on_all && !IsWanted(sample, i)) continue;
            loss += rows[i - 1].Loss(sample.ids[i]);
            ++targets;
          }
        }
        ASSERT_FALSE(trainer.done());
        const TrainingStep step = trainer.Step();
        EXPECT_EQ(step.step, ++steps);
        EXPECT_EQ(step.epoch, epoch);
        EXPECT_EQ(step.tokens, tokens);
        EXPECT_EQ(step.targets, targets);
        EXPECT_DOUBLE_EQ(step.loss, loss / static_cast<double>(targets)) << steps;
      }
    }
    EXPECT_TRUE(trainer.done());
    EXPECT_EQ(std::min(guessed, refused) > 5, GetParam() == NoiseKind::kJacobi);
  }
}

TEST(TrainerTest, HeldOutLossIsThatOfCleanResponses) {
  kernels::ThreadPool pool(1);
  const Subject subject = {"mistral"};
  Decoder decoder(subject.dir(), WeightFormat::kF32);
  const auto model = LoadTrainable(subject.dir(), pool);
  const std::vector<Sample> samples = RandomSamples(kSizes, model->config().vocab_size, 5);
  double loss = 0;
  int64_t targets = 0;
  for (const Sample& sample : samples) {
    const std::vector<Decoder::Row> rows = decoder.Read(sample.ids);
    for (size_t i = 1; i < sample.ids.size(); ++i) {
      if (!IsWanted(sample, static_cast<int32_t>(i))) continue;
      loss += rows[i - 1].Loss(sample.ids[i]);
      ++targets;
    }
  }
  for (const int64_t micro_tokens : {2, 40, 4096}) {
    TrainerOptions options = OptionsWith(NoiseKind::kAhead);
    options.micro_tokens = micro_tokens;
    options.loss_on_all = true;
    Trainer trainer(model.get(), samples, {}, options, &pool);
    EXPECT_EQ(trainer.HeldOutLoss(samples), loss / static_cast<double>(targets)) << micro_tokens;
    EXPECT_EQ(trainer.HeldOutLoss({}), 0);
  }
}

// The formula of the published training script, at steps that are reached by Resume.
TEST(TrainerTest, LearningRateWarmsUpAndFallsByACosine) {
  kernels::ThreadPool pool(1);
  const auto model = LoadTrainable(test::Testdata("tiny-llama"), pool);
  const std::vector<Sample> samples = RandomSamples({2, 2}, 600, 6);
  struct Case {
    int64_t warmup, total, expected_warmup;
    double low;
  };
  for (const Case& c : {Case{-1, 60, 20, 0.1}, Case{-1, 2000, 40, 0.1}, Case{7, 60, 7, 0}, Case{0, 60, 1, 1},
                        Case{100, 60, 100, 0.5}}) {
    const TrainerOptions options = {.epochs = 5000,
                                    .max_steps = c.total,
                                    .batch_tokens = 2,
                                    .learning_rate = 3e-4,
                                    .min_learning_rate = c.low,
                                    .warmup_steps = c.warmup};
    Trainer trainer(model.get(), samples, {}, options, &pool);
    ASSERT_EQ(trainer.steps(), c.total);
    for (const int64_t step : {int64_t{0}, int64_t{1}, int64_t{6}, int64_t{7}, int64_t{19}, int64_t{20},
                               int64_t{39}, int64_t{40}, c.total - 1}) {
      trainer.Resume(step);
      const double warm =
          std::min(1.0, static_cast<double>(step + 1) / static_cast<double>(c.expected_warmup));
      const double fallen =
          0.5 + 0.5 * std::cos(std::numbers::pi * static_cast<double>(step) / static_cast<double>(c.total));
      EXPECT_NEAR(trainer.Step().learning_rate, 3e-4 * warm * (c.low + (1 - c.low) * fallen), 1e-10)
          << step << " of " << c.total;
    }
    EXPECT_TRUE(trainer.done());
  }
}

TEST(TrainerTest, StopsAfterMaxSteps) {
  kernels::ThreadPool pool(1);
  const auto model = LoadTrainable(test::Testdata("tiny-llama"), pool);
  const std::vector<Sample> samples = RandomSamples(kSizes, 600, 7);
  TrainerOptions options = OptionsWith(NoiseKind::kUniform);
  options.learning_rate = 0;
  const NoiseVocabulary vocabulary = {.size = 600, .specials = {}};
  Trainer all(model.get(), samples, vocabulary, options, &pool);
  for (const int64_t limit : {int64_t{1}, all.steps() / 2 + 1, all.steps(), all.steps() + 1}) {
    options.max_steps = limit;
    Trainer some(model.get(), samples, vocabulary, options, &pool);
    ASSERT_EQ(some.steps(), std::min(limit, all.steps()));
    all.Resume(0);
    while (!some.done()) EXPECT_EQ(some.Step().loss, all.Step().loss) << all.step();
  }
}

// AdamW of arXiv 1711.05101 in double, given the gradients, with their norm bounded as PyTorch does it.
TEST(TrainerTest, ClipsAndDecaysAsAdamWInDouble) {
  kernels::ThreadPool pool(1);
  for (const double clip_norm : {0.0, 0.02, 1e6}) {
    const auto model = LoadTrainable(test::Testdata("tiny-qwen2"), pool);
    const std::vector<Sample> samples = RandomSamples(kSizes, model->config().vocab_size, 8);
    TrainerOptions options = OptionsWith(NoiseKind::kNone);
    options.clip_norm = clip_norm;
    options.weight_decay = 0.7;
    Trainer trainer(model.get(), samples, {}, options, &pool);
    std::vector<double> p(model->values().begin(), model->values().end()), m(p.size()), v(p.size());
    for (int t = 1; t <= 4; ++t) {
      const TrainingStep step = trainer.Step();
      double square = 0;
      for (const float g : model->gradients()) square += double{g} * g;
      EXPECT_NEAR(step.gradient_norm, std::sqrt(square), 1e-6 * std::sqrt(square));
      const double scale = clip_norm > 0 ? std::min(1.0, clip_norm / std::sqrt(square)) : 1.0;
      EXPECT_EQ(scale < 1, clip_norm == 0.02);
      double worst = 0;
      for (const Parameter& parameter : model->table().parameters()) {
        for (int64_t i = parameter.offset; i < parameter.offset + parameter.size; ++i) {
          const double g = scale * model->gradients()[i];
          m[i] = options.beta1 * m[i] + (1 - options.beta1) * g;
          v[i] = options.beta2 * v[i] + (1 - options.beta2) * g * g;
          const double m_hat = m[i] / (1 - std::pow(options.beta1, t)),
                       v_hat = v[i] / (1 - std::pow(options.beta2, t));
          if (parameter.decays) p[i] *= 1 - step.learning_rate * options.weight_decay;
          p[i] -= step.learning_rate * m_hat / (std::sqrt(v_hat) + options.epsilon);
          worst = std::max(worst, std::abs(p[i] - model->values()[i]));
        }
      }
      EXPECT_LT(worst, 1e-6) << "step " << t << ", clipped to " << clip_norm;
    }
  }
}

class TrainerOf : public testing::TestWithParam<Subject> {};
INSTANTIATE_TEST_SUITE_P(Training, TrainerOf, testing::ValuesIn(Subjects()),
                         testing::PrintToStringParamName());

TEST_P(TrainerOf, LearnsTextsByHeart) {
  kernels::ThreadPool pool(1);
  const TestedModel tested(GetParam(), pool);
  const std::vector<Sample> samples = RandomSamples({12, 12, 12, 12}, tested.model->config().vocab_size, 9);
  const TrainerOptions options = {
      .noise = {.length = 2}, .epochs = 60, .learning_rate = 2e-2, .warmup_steps = 5};
  Trainer trainer(tested.model.get(), samples, {.size = 600, .specials = {}}, options, &pool);
  const double before = trainer.HeldOutLoss(samples);
  while (!trainer.done()) trainer.Step();
  EXPECT_LT(trainer.HeldOutLoss(samples), before / 2) << before;
}

class AdaptersOf : public testing::TestWithParam<Subject> {};
INSTANTIATE_TEST_SUITE_P(Training, AdaptersOf, testing::ValuesIn(AdapterSubjects()),
                         testing::PrintToStringParamName());

TEST_P(AdaptersOf, MergeIntoTheWeightsAndLeaveThemAlone) {
  kernels::ThreadPool pool(1);
  const TestedModel tested(GetParam(), pool);
  TrainableModel& model = *tested.model;
  const ModelConfig& config = model.config();
  const std::vector<Sample> samples = RandomSamples(kSizes, config.vocab_size, 10);
  Trainer trainer(&model, samples, {}, OptionsWith(NoiseKind::kNone), &pool);
  const double before = trainer.HeldOutLoss(samples);
  while (!trainer.done()) trainer.Step();
  const double adapted = trainer.HeldOutLoss(samples);
  EXPECT_LT(adapted, before - 0.01);

  const auto merged = LoadTrainable(GetParam().dir(), pool);
  const ModelParameters parameters(config);
  for (int32_t layer = 0; layer < config.layers; ++layer) {
    const LayerOffsets& at = parameters.layers[layer];
    for (int product = 0; const int64_t offset : {at.qkv, at.output, at.gate_up, at.down}) {
      float* weight = merged->values().data() + offset;
      for (const float update : AdapterUpdate(model, GetParam().adapters(), layer, product, pool))
        *weight++ += update;
      ++product;
    }
  }
  merged->Pack(pool);
  Trainer of_merged(merged.get(), samples, {}, OptionsWith(NoiseKind::kNone), &pool);
  EXPECT_NEAR(of_merged.HeldOutLoss(samples), adapted, 1e-5);

  // Without their b, what is left is the base, untouched by the training beside it.
  for (size_t t = 1; t < model.table().tensors().size(); t += 2) {
    std::ranges::fill(model.table().Slice(model.values(), t), 0.0f);
  }
  model.Pack(pool);
  EXPECT_EQ(trainer.HeldOutLoss(samples), before);
}

TEST(TrainerOptionsTest, ErrorsNameTheFieldTheValueAndTheRange) {
  EXPECT_TRUE(TrainerOptions().Validate().ok());
  const auto expect = [](auto change, const std::string& message) {
    TrainerOptions options;
    change(options);
    const absl::Status status = options.Validate();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_EQ(std::string(status.message()), message);
  };
  using O = TrainerOptions;
  expect([](O& o) { o.noise.length = 0; }, "noise length is 0, must be from 1 to 1024");
  expect([](O& o) { o.epochs = 0; }, "epochs is 0, must be in [1, 10000]");
  expect([](O& o) { o.max_steps = -1; }, "max_steps is -1, must be in [0, 1000000000000]");
  expect([](O& o) { o.batch_tokens = 1; }, "batch_tokens is 1, must be in [2, 16777216]");
  expect([](O& o) { o.micro_tokens = 0; }, "micro_tokens is 0, must be in [2, 16777216]");
  expect([](O& o) { o.learning_rate = NAN; }, "lr is nan, must be in [0, 10]");
  expect([](O& o) { o.min_learning_rate = 1.5; }, "min_lr is 1.5, must be in [0, 1]");
  expect([](O& o) { o.warmup_steps = -2; }, "warmup is -2, must be in [-1, 1000000000000]");
  expect([](O& o) { o.beta1 = 1; }, "beta1 is 1, must be in [0, 0.999999]");
  expect([](O& o) { o.beta2 = -0.5; }, "beta2 is -0.5, must be in [0, 0.999999]");
  expect([](O& o) { o.epsilon = 0; }, "epsilon is 0, must be in [1e-30, 1]");
  expect([](O& o) { o.weight_decay = 11; }, "weight_decay is 11, must be in [0, 10]");
  expect([](O& o) { o.clip_norm = -1; }, "clip_norm is -1, must be in [0, 1e+09]");
}

}  // namespace
}  // namespace clamor
