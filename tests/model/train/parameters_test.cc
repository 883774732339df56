#include "model/train/parameters.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/spec/noise.h"
#include "model/weights.h"
#include "tests/model/checkpoint/model_files.h"

namespace clamor {
namespace {

using test::RawTensor;
using test::RawTensors;
using test::ReadRawTensors;
using test::TempDir;
using test::Testdata;
using test::WriteFile;
using test::WriteRawTensors;
using ::testing::Each;
using ::testing::HasSubstr;

ModelConfig ConfigOf(const std::string& dir) {
  const absl::StatusOr<ModelDescription> description = LoadModelDescription(dir);
  EXPECT_TRUE(description.ok()) << description.status();
  return description->config;
}

absl::Status Load(const std::string& dir, const ModelConfig& config, const ParameterTable& table,
                  std::vector<float>& values) {
  values.assign(table.total(), NAN);
  return LoadParameters(dir, config, table, values, [](uint64_t, uint64_t) {});
}

TEST(ParameterTable, LaysTensorsOneBehindTheOther) {
  const ParameterTable table({{"b", {2, 3}}, {"a", {4}}, {"c", {5, 1}}});
  EXPECT_EQ(table.total(), 15);
  ASSERT_EQ(table.parameters().size(), 3u);
  for (const auto& [name, offset, size, decays] :
       {std::tuple{"b", 0, 6, true}, {"a", 6, 4, false}, {"c", 10, 5, true}}) {
    const Parameter* parameter = table.Find(name);
    ASSERT_NE(parameter, nullptr);
    EXPECT_EQ(parameter->offset, offset);
    EXPECT_EQ(parameter->size, size);
    EXPECT_EQ(parameter->decays, decays);
  }
  EXPECT_EQ(table.Find("d"), nullptr);
  std::vector<int> values(15);
  EXPECT_EQ(table.Slice(std::span<int>(values), 1).data(), &values[6]);
  EXPECT_EQ(table.Slice(std::span<int>(values), 1).size(), 4u);
  EXPECT_EQ(ParameterTable({}).total(), 0);
}

// Checks that a group of tensors stands where the trainer looks for it, and collects their names.
class LayoutChecker {
 public:
  LayoutChecker(const ParameterTable& table, const RawTensors& raw) : table_(table), raw_(raw) {}

  // The tensors under `prefix` that the file has, side by side from `offset` on; none: no offset.
  void Group(int64_t offset, const std::string& prefix, const std::vector<std::string>& suffixes) {
    bool found = false;
    for (const std::string& suffix : suffixes) {
      const auto it = raw_.find(prefix + suffix);
      if (it == raw_.end()) continue;
      const Parameter* parameter = table_.Find(it->first);
      ASSERT_NE(parameter, nullptr) << it->first;
      EXPECT_EQ(parameter->offset, offset) << it->first;
      EXPECT_EQ(parameter->offset, end_) << it->first << " is not behind the one before it";
      EXPECT_EQ(parameter->size, it->second.size()) << it->first;
      EXPECT_EQ(parameter->decays, it->second.shape.size() == 2) << it->first;
      offset = end_ = parameter->offset + parameter->size;
      found = true;
      ++used_;
    }
    if (!found) {
      EXPECT_EQ(offset, kNoParameter) << prefix << suffixes[0];
    }
  }

  int64_t end() const { return end_; }
  size_t used() const { return used_; }

 private:
  const ParameterTable& table_;
  const RawTensors& raw_;
  int64_t end_ = 0;
  size_t used_ = 0;
};

// Layout and values of the model in `dir`, against the dull reader.
void ExpectParameters(const std::string& dir, const ModelConfig& config) {
  const ModelParameters model(config);
  const RawTensors raw = ReadRawTensors(dir);
  LayoutChecker check(model.table, raw);
  check.Group(model.embedding, "model.embed_tokens.weight", {""});
  ASSERT_EQ(model.layers.size(), static_cast<size_t>(config.layers));
  for (int i = 0; i < config.layers; ++i) {
    const LayerOffsets& layer = model.layers[i];
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    const std::string attention = prefix + "self_attn.", mlp = prefix + "mlp.";
    check.Group(layer.attention_norm, prefix, {"input_layernorm.weight"});
    check.Group(layer.qkv, attention, {"q_proj.weight", "k_proj.weight", "v_proj.weight"});
    check.Group(layer.qkv_bias, attention, {"q_proj.bias", "k_proj.bias", "v_proj.bias"});
    check.Group(layer.q_norm, attention, {"q_norm.weight"});
    check.Group(layer.k_norm, attention, {"k_norm.weight"});
    check.Group(layer.output, attention, {"o_proj.weight"});
    check.Group(layer.output_bias, attention, {"o_proj.bias"});
    check.Group(layer.mlp_norm, prefix, {"post_attention_layernorm.weight"});
    check.Group(layer.gate_up, mlp, {"gate_proj.weight", "up_proj.weight"});
    check.Group(layer.gate_up_bias, mlp, {"gate_proj.bias", "up_proj.bias"});
    check.Group(layer.down, mlp, {"down_proj.weight"});
    check.Group(layer.down_bias, mlp, {"down_proj.bias"});
  }
  check.Group(model.final_norm, "model.norm.weight", {""});
  if (config.tied_head) {
    EXPECT_EQ(model.head, model.embedding);
  } else {
    check.Group(model.head, "lm_head.weight", {""});
  }
  EXPECT_EQ(check.used(), raw.size());
  EXPECT_EQ(check.end(), model.table.total());

  std::vector<float> values;
  const absl::Status status = Load(dir, config, model.table, values);
  ASSERT_TRUE(status.ok()) << status;
  for (const auto& [name, tensor] : raw) {
    const int64_t offset = model.table.Find(name)->offset;
    int64_t different = 0;
    for (int64_t i = 0; i < tensor.size(); ++i) {
      different += std::bit_cast<uint32_t>(values[offset + i]) != std::bit_cast<uint32_t>(tensor[i]);
    }
    EXPECT_EQ(different, 0) << name;
  }
}

TEST(Parameters, EveryModel) {
  for (const char* model : {"tiny-llama", "tiny-qwen2", "tiny-qwen3", "tiny-mistral"}) {
    SCOPED_TRACE(model);
    ExpectParameters(Testdata(model), ConfigOf(Testdata(model)));
  }
  ExpectParameters(CLAMOR_DEMO_MODEL, ConfigOf(CLAMOR_DEMO_MODEL));
}

// A Llama with all biases, tensors of every dtype (subnormals and both zeros too) at odd addresses.
TEST(Parameters, AllBiasesMixedDTypesUnalignedData) {
  ModelConfig config = ConfigOf(Testdata("tiny-llama"));
  config.qkv_bias = config.output_bias = config.mlp_bias = true;
  std::mt19937 random(7);
  RawTensors tensors;
  const ModelParameters model(config);
  for (const TensorShape& t : model.table.tensors()) {
    RawTensor& raw = tensors[t.name];
    raw = {std::vector<std::string>{"F32", "BF16", "F16"}[random() % 3], t.shape, {}};
    int64_t words = raw.dtype == "F32" ? 2 : 1;
    for (const int64_t dim : t.shape) words *= dim;
    for (int64_t j = 0; j < words; ++j) {
      // Any sign and mantissa, no infinities.
      const uint16_t bits = static_cast<uint16_t>(random()) & (random() % 4 == 0 ? 0x83ff : 0xbbff);
      raw.bytes.append(reinterpret_cast<const char*>(&bits), 2);
    }
  }
  for (int pad = 0; pad < 4; ++pad) {
    TempDir dir;
    WriteFile(dir / "model.safetensors", WriteRawTensors(tensors, pad));
    ExpectParameters(dir.path(), config);
  }
}

// Whatever is wrong with the files, training says of them what serving says.
TEST(Parameters, ErrorsAreThoseOfWeights) {
  const ModelConfig config = ConfigOf(Testdata("tiny-llama"));
  const ModelParameters model(config);
  const RawTensors whole = ReadRawTensors(Testdata("tiny-llama"));
  const std::string name = "model.layers.1.self_attn.v_proj.weight";
  std::vector<std::pair<std::string, RawTensors>> cases;
  cases.push_back({"no tensor \"" + name, whole});
  cases.back().second.erase(name);
  cases.push_back({"has shape [64, 32], the config asks for [32, 64]", whole});
  cases.back().second[name].shape = {64, 32};
  cases.push_back({"1 tensors that the config does not ask for: \"extra\"", whole});
  cases.back().second["extra"] = {"F32", {1}, "1234"};
  cases.push_back({"has dtype \"I16\"", whole});
  cases.back().second["model.norm.weight"].dtype = "I16";
  kernels::ThreadPool pool(1);
  for (const auto& [message, tensors] : cases) {
    TempDir dir;
    WriteFile(dir / "model.safetensors", WriteRawTensors(tensors));
    std::vector<float> values;
    const absl::Status status = Load(dir.path(), config, model.table, values);
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
    EXPECT_EQ(status, Weights::Load(dir.path(), config, WeightFormat::kF32, pool, [](uint64_t, uint64_t) {
                      }).status());
    EXPECT_TRUE(std::all_of(values.begin(), values.end(), [](float x) { return std::isnan(x); }));
  }
  std::vector<float> values;
  TempDir empty;
  EXPECT_TRUE(absl::IsNotFound(Load(empty.path(), config, model.table, values)));
}

TEST(Parameters, TheHeadOfATiedModelIsIgnored) {
  RawTensors tensors = ReadRawTensors(Testdata("tiny-qwen2"));
  tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"];
  TempDir dir;
  WriteFile(dir / "model.safetensors", WriteRawTensors(tensors));
  const ModelConfig config = ConfigOf(Testdata("tiny-qwen2"));
  std::vector<float> values;
  EXPECT_TRUE(Load(dir.path(), config, ModelParameters(config).table, values).ok());
}

TEST(Parameters, ProgressEndsAtTheTotal) {
  const std::string dir = Testdata("tiny-mistral");
  const ModelConfig config = ConfigOf(dir);
  const ParameterTable table = ModelParameters(config).table;
  std::vector<float> values(table.total());
  uint64_t last = 0, all = 0;
  ASSERT_TRUE(LoadParameters(dir, config, table, values, [&](uint64_t done, uint64_t total) {
                EXPECT_GT(done, last);
                last = done;
                all = total;
              }).ok());
  uint64_t bytes = 0;
  for (const auto& [name, raw] : ReadRawTensors(dir)) bytes += raw.bytes.size();
  EXPECT_EQ(last, bytes);
  EXPECT_EQ(all, bytes);
}

std::vector<float> Initial(const ParameterTable& table, uint64_t seed) {
  std::vector<float> values(table.total(), NAN);
  InitializeParameters(table, seed, values);
  return values;
}

TEST(InitializeParameters, NormsAreOneAndBiasesZero) {
  const ModelConfig config = ConfigOf(Testdata("tiny-qwen2"));
  const ModelParameters model(config);
  std::vector<float> values = Initial(model.table, 1);
  const std::span<float> all(values);
  for (size_t i = 0; i < model.table.tensors().size(); ++i) {
    const TensorShape& tensor = model.table.tensors()[i];
    if (tensor.shape.size() == 2) continue;
    const bool bias = tensor.name.ends_with(".bias");
    EXPECT_EQ(bias, !tensor.name.ends_with("norm.weight")) << tensor.name;
    EXPECT_THAT(model.table.Slice(all, i), Each(bias ? 0.0f : 1.0f)) << tensor.name;
  }
}

// The method by its definition, in double with the C library: a few units of the last place.
TEST(InitializeParameters, MatricesAreMarsagliasMethod) {
  const ParameterTable table({{"norm.weight", {3}}, {"w", {100, 101}}});
  const std::vector<float> values = Initial(table, 42);
  uint64_t state = 42;
  state = NextRandom(state) + 1;  // the second tensor
  state = NextRandom(state);
  const auto uniform = [&] { return static_cast<double>(NextRandom(state) >> 40) / 8388608.0 - 1.0; };
  for (size_t i = 3; i < values.size(); i += 2) {
    double x, y, square;
    do {
      x = uniform();
      y = uniform();
      square = x * x + y * y;
    } while (square >= 1 || square == 0);
    const double scale = 0.02 * std::sqrt(-2 * std::log(square) / square);
    // Close to the circle the logarithm is as good as the rounded square.
    const double tolerance = 5e-7 + 1.2e-7 / (1 - square);
    ASSERT_NEAR(values[i] / (x * scale), 1, tolerance) << i;
    if (i + 1 < values.size()) {
      ASSERT_NEAR(values[i + 1] / (y * scale), 1, tolerance) << i;
    }
  }
}

TEST(InitializeParameters, MatricesAreNormal) {
  const ParameterTable table({{"w", {1000, 1000}}});
  std::vector<float> values = Initial(table, 5);
  double sum = 0, squares = 0, fourths = 0, neighbours = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double z = values[i] / 0.02;
    sum += z;
    squares += z * z;
    fourths += z * z * z * z;
    if (i > 0) neighbours += z * values[i - 1] / 0.02;
  }
  const double n = static_cast<double>(values.size());
  EXPECT_NEAR(sum / n, 0, 5e-3);  // five standard errors each
  EXPECT_NEAR(squares / n, 1, 7e-3);
  EXPECT_NEAR(fourths / n, 3, 5e-2);
  EXPECT_NEAR(neighbours / n, 0, 5e-3);
  // Kolmogorov-Smirnov: 1.95 / sqrt(n) is passed once in a thousand seeds.
  std::sort(values.begin(), values.end());
  double distance = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double expected = 0.5 * std::erfc(-values[i] / 0.02 / std::sqrt(2.0));
    distance = std::max(distance, std::abs(expected - (static_cast<double>(i) + 0.5) / n));
  }
  EXPECT_LT(distance, 1.95 / std::sqrt(n));
}

// A tensor depends on the seed and its place, not on the tensors before it.
TEST(InitializeParameters, EachTensorHasItsOwnStream) {
  const std::vector<float> a = Initial(ParameterTable({{"a", {3, 5}}, {"b", {4, 4}}}), 9);
  const std::vector<float> b = Initial(ParameterTable({{"c", {7}}, {"b", {4, 4}}}), 9);
  EXPECT_EQ(std::vector(a.begin() + 15, a.end()), std::vector(b.begin() + 7, b.end()));
  EXPECT_NE(std::vector(a.begin(), a.begin() + 15), std::vector(a.begin() + 15, a.begin() + 30));
  EXPECT_NE(a, Initial(ParameterTable({{"a", {3, 5}}, {"b", {4, 4}}}), 10));
}

// These very bits on every machine, compiler and CPU target.
TEST(InitializeParameters, TheSameBitsEverywhere) {
  const ParameterTable table({{"w", {64, 64}}});
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const float value : Initial(table, 1)) {
    hash = (hash ^ std::bit_cast<uint32_t>(value)) * 0x100000001b3;
  }
  EXPECT_EQ(hash, 3306937124034813391u);
}

}  // namespace
}  // namespace clamor
