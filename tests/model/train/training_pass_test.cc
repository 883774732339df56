#include "model/train/training_pass.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "tests/kernels/on_target.h"
#include "tests/model/train/dull_model.h"
#include "tests/model/train/training_fixture.h"

namespace clamor {
namespace {

class SubjectTest : public testing::TestWithParam<Subject> {};
INSTANTIATE_TEST_SUITE_P(Training, SubjectTest, testing::ValuesIn(Subjects()),
                         testing::PrintToStringParamName());

TEST_P(SubjectTest, ReadsTextsAsTheTransformerDoes) {
  kernels::ThreadPool pool(1);
  const TestedModel tested(GetParam(), pool);
  const ModelConfig& config = tested.model->config();
  TrainingPass pass(config, /*max_length=*/90, /*recompute=*/false);
  Decoder decoder(GetParam().dir(), GetParam().format);
  Random random(1);
  // Mistral's window is 24.
  TrainingBatch batch = RandomBatch({1, 2, 25, 90, 40, 3}, config.vocab_size, random);
  const std::vector<Decoder::Row> rows = decoder.Read(batch);
  for (int i = 0; i < 10; ++i) {
    double expected = 0;
    for (int64_t r = 0; r < batch.rows(); ++r) {
      batch.targets[r] = Below(3, random) == 0 ? TrainingBatch::kNoTarget : Below(config.vocab_size, random);
      if (batch.targets[r] != TrainingBatch::kNoTarget) expected += rows[r].Loss(batch.targets[r]);
    }
    double loss = 0, learnt = 0;
    pass.Loss(*tested.model, batch, &loss, pool);
    pass.Learn(*tested.model, batch, 1.0f, &learnt, pool);
    EXPECT_EQ(loss, expected);
    EXPECT_EQ(learnt, expected);
  }
  std::vector<int64_t> all(batch.rows());
  std::iota(all.begin(), all.end(), 0);
  const std::vector<int32_t> guesses = pass.Guess(*tested.model, batch, all, pool);
  for (const int64_t r : all) EXPECT_EQ(guesses[r], rows[r].best) << r;
}

// The gradient of scale * loss in a few elements of each tensor, that with the largest gradient among them.
// `moved` is the loss with one parameter moved by a step.
void ExpectGradients(TrainableModel& model, double scale,
                     absl::FunctionRef<double(size_t tensor, size_t element, double step)> moved) {
  constexpr double kStep = 1e-5;
  Random random(2);
  for (size_t t = 0; t < model.table().tensors().size(); ++t) {
    const std::span<const float> gradient = model.table().Slice(model.gradients(), t);
    const auto largest =
        std::ranges::max_element(gradient, {}, [](float g) { return std::abs(g); }) - gradient.begin();
    std::vector<size_t> elements = {static_cast<size_t>(largest)};
    for (int i = 0; i < 4 / kernels::kStride; ++i)
      elements.push_back(Below(static_cast<int32_t>(gradient.size()), random));
    for (const size_t e : elements) {
      const double expected = scale * (moved(t, e, kStep) - moved(t, e, -kStep)) / (2 * kStep);
      EXPECT_NEAR(gradient[e], expected, 1e-5 * std::abs(gradient[largest]))
          << model.table().tensors()[t].name << " " << e;
    }
  }
}

// Small, odd in size, and with every part that a family may have.
std::vector<ModelConfig> SmallConfigs() {
  const ModelConfig common = {.vocab_size = 29, .layers = 2, .max_positions = 64, .rms_norm_eps = 1e-5f};
  ModelConfig qwen2 = common, qwen3 = common, llama = common, mistral = common;
  qwen2.family = Family::kQwen2;
  qwen2.hidden_size = 20, qwen2.intermediate_size = 37, qwen2.window = {0, 0};
  qwen2.heads = 5, qwen2.kv_heads = 1, qwen2.head_dim = 4;
  qwen2.tied_head = qwen2.qkv_bias = true;

  qwen3.family = Family::kQwen3;
  qwen3.hidden_size = 18, qwen3.intermediate_size = 21, qwen3.window = {0, 0};
  qwen3.heads = 4, qwen3.kv_heads = 2, qwen3.head_dim = 6;
  qwen3.qk_norm = true;

  llama.hidden_size = 24, llama.intermediate_size = 19, llama.window = {0, 0};
  llama.heads = 3, llama.kv_heads = 3, llama.head_dim = 8;
  llama.qkv_bias = llama.output_bias = llama.mlp_bias = true;
  llama.rope.scaling = RopeConfig::Scaling::kLlama3;
  llama.rope.factor = 8, llama.rope.original_max_position = 32;

  mistral.family = Family::kMistral;
  mistral.hidden_size = 16, mistral.intermediate_size = 40, mistral.window = {3, 5};
  mistral.heads = 4, mistral.kv_heads = 2, mistral.head_dim = 4;
  return {llama, qwen2, qwen3, mistral};
}

// Matrices that scale by `gain`, 1.5 being large enough that attention, gates and norms are far from linear.
void Stir(TrainableModel& model, float gain, kernels::ThreadPool& pool) {
  Random random(3);
  std::normal_distribution<float> normal;
  for (size_t t = 0; t < model.table().tensors().size(); ++t) {
    const TensorShape& tensor = model.table().tensors()[t];
    const bool matrix = tensor.shape.size() == 2;
    const float center = matrix || tensor.name.ends_with(".bias") ? 0.0f : 1.0f;
    const float deviation = matrix ? gain / std::sqrt(static_cast<float>(tensor.shape[1])) : 0.3f;
    for (float& value : model.table().Slice(model.values(), t)) value = center + deviation * normal(random);
  }
  model.Pack(pool);
}

class SmallModelTest : public testing::TestWithParam<ModelConfig> {};
INSTANTIATE_TEST_SUITE_P(Training, SmallModelTest, testing::ValuesIn(SmallConfigs()),
                         [](const auto& info) { return std::string(FamilyName(info.param.family)); });

TEST_P(SmallModelTest, GradientsAreCentralDifferences) {
  constexpr float kScale = 0.25f;
  kernels::ThreadPool pool(1);
  TrainableModel model(GetParam());
  Stir(model, 1.5f, pool);
  Random random(4);
  const TrainingBatch batch = RandomBatch({11, 1, 7}, GetParam().vocab_size, random);
  DullModel dull(GetParam(), model.table(), model.values());
  TrainingPass pass(GetParam(), 11, false);
  double loss = 0;
  pass.Learn(model, batch, kScale, &loss, pool);
  pass.Finish(model, pool);
  EXPECT_NEAR(loss, dull.Loss(batch), 1e-4);
  ExpectGradients(model, kScale, [&](size_t tensor, size_t element, double step) {
    double& parameter = dull.tensors.at(model.table().tensors()[tensor].name)[element];
    const double before = std::exchange(parameter, parameter + step);
    const double loss = dull.Loss(batch);
    parameter = before;
    return loss;
  });
}

// `model` with scale * b * a added to the tensors that each adapter stands beside.
DullModel WithAdapters(DullModel model, const ParameterTable& table, const std::vector<double>& values,
                       double scale) {
  static const std::map<std::string, std::vector<std::string>> kTensors = {
      {"qkv", {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}},
      {"output", {"self_attn.o_proj"}},
      {"gate_up", {"mlp.gate_proj", "mlp.up_proj"}},
      {"down", {"mlp.down_proj"}}};
  for (size_t t = 0; t < table.tensors().size(); t += 2) {
    const std::vector<std::string> name =
        absl::StrSplit(table.tensors()[t].name, '.');  // layers.0.qkv.lora_a
    const int64_t rank = table.tensors()[t].shape[0], k = table.tensors()[t].shape[1];
    const double* a = values.data() + table.parameters()[t].offset;
    const double* b = values.data() + table.parameters()[t + 1].offset;
    for (const std::string& part : kTensors.at(name[2])) {
      DullModel::Vector& weight = model.tensors.at("model.layers." + name[1] + "." + part + ".weight");
      for (size_t row = 0; row < weight.size(); row += k, b += rank) {
        for (int64_t r = 0; r < rank; ++r) {
          for (int64_t i = 0; i < k; ++i) weight[row + i] += scale * b[r] * a[r * k + i];
        }
      }
    }
  }
  return model;
}

class AdapterTest : public testing::TestWithParam<Subject> {};
INSTANTIATE_TEST_SUITE_P(Training, AdapterTest, testing::ValuesIn(AdapterSubjects()),
                         testing::PrintToStringParamName());

TEST_P(AdapterTest, GradientsAreCentralDifferences) {
  constexpr float kScale = 0.5f;
  kernels::ThreadPool pool(1);
  const TestedModel tested(GetParam(), pool);
  TrainableModel& model = *tested.model;
  Stir(model, 0.3f, pool);
  Random random(5);
  const TrainingBatch batch = RandomBatch({27, 2}, model.config().vocab_size, random);
  const auto base = LoadTrainable(GetParam().dir(), pool);
  const DullModel dull(model.config(), base->table(), base->values());
  TrainingPass pass(model.config(), 27, false);
  double loss = 0;
  pass.Learn(model, batch, kScale, &loss, pool);
  pass.Finish(model, pool);
  std::vector<double> values(model.values().begin(), model.values().end());
  ExpectGradients(model, kScale, [&](size_t tensor, size_t element, double step) {
    double& parameter = values[model.table().parameters()[tensor].offset + element];
    const double before = std::exchange(parameter, parameter + step);
    const double loss = WithAdapters(dull, model.table(), values, /*scale=*/6.0 / 4).Loss(batch);
    parameter = before;
    return loss;
  });
}

// The logits of a batch are made in pieces of 32 rows here, wherever its texts end.
TEST(TrainingPassTest, AWideHeadComesInPieces) {
  const ModelConfig config = {.vocab_size = 1 << 18,
                              .hidden_size = 4,
                              .intermediate_size = 4,
                              .layers = 1,
                              .heads = 1,
                              .kv_heads = 1,
                              .head_dim = 4,
                              .tied_head = true,
                              .window = {0}};
  kernels::ThreadPool pool(1);
  TrainableModel model(config);
  Stir(model, 1.5f, pool);
  Random random(6);
  const TrainingBatch batch = RandomBatch({30, 30, 30, 10}, config.vocab_size, random);
  std::vector<int64_t> all(batch.rows());
  std::iota(all.begin(), all.end(), 0);

  TrainingPass pass(config, 30, false);
  double loss = 0;
  std::vector<int32_t> guesses;
  for (size_t t = 0; t < 4; ++t) {
    const TrainingBatch text = Texts(batch, t, t + 1);
    pass.Learn(model, text, 1.0f, &loss, pool);
    for (const int32_t id : pass.Guess(model, text, std::span(all).first(text.rows()), pool))
      guesses.push_back(id);
  }
  pass.Finish(model, pool);
  const std::vector<float> gradients(model.gradients().begin(), model.gradients().end());

  std::ranges::fill(model.gradients(), 0.0f);
  double whole = 0;
  pass.Learn(model, batch, 1.0f, &whole, pool);
  pass.Finish(model, pool);
  EXPECT_EQ(whole, loss);
  EXPECT_TRUE(kernels::SameBits(gradients.data(), model.gradients().data(), gradients.size()));
  EXPECT_EQ(pass.Guess(model, batch, all, pool), guesses);
}

}  // namespace
}  // namespace clamor
