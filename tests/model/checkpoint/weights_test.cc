#include "model/weights.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/model_tensors.h"
#include "tests/model/checkpoint/model_files.h"

namespace clamor {
namespace {

using kernels::DType;
using kernels::PackedMatrix;
using kernels::Storage;
using kernels::ThreadPool;
using test::RawTensor;
using test::RawTensors;
using test::ReadRawTensors;
using test::TempDir;
using test::Testdata;
using test::WriteFile;
using test::WriteRawTensors;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr WeightFormat kFormats[] = {WeightFormat::kStored, WeightFormat::kF32, WeightFormat::kBF16,
                                     WeightFormat::kF16,    WeightFormat::kI8,  WeightFormat::kI4};

absl::StatusOr<Weights> Load(const std::string& dir, const ModelConfig& config, WeightFormat format) {
  ThreadPool pool(2);
  return Weights::Load(dir, config, format, pool, [](uint64_t, uint64_t) {});
}

ModelConfig ConfigOf(const std::string& dir) {
  absl::StatusOr<ModelDescription> description = LoadModelDescription(dir);
  EXPECT_TRUE(description.ok()) << description.status();
  return description->config;
}

// fp32 to the nearest bf16, ties to even, from the two neighbours; only for finite values.
float NearestBF16(float x) {
  const float below = std::bit_cast<float>(std::bit_cast<uint32_t>(x) & 0xffff0000u);  // towards zero
  const float above = std::bit_cast<float>(std::bit_cast<uint32_t>(below) + 0x10000u);
  const double down = std::abs(double{x} - below), up = std::abs(double{above} - x);
  if (down != up) return down < up ? below : above;
  return std::bit_cast<uint32_t>(below) & 0x10000u ? above : below;
}

// Compares one field with the tensors it is made of, in the format that `format` implies.
class Checker {
 public:
  Checker(const RawTensors& raw, WeightFormat format) : raw_(raw), format_(format) {}

  void Matrix(const PackedMatrix& matrix, const std::vector<std::string>& names) {
    const Storage stored = Expected(names);
    EXPECT_EQ(matrix.stored(), stored) << names[0];
    int64_t row = 0;
    for (const std::string& name : names) {
      const RawTensor& raw = raw_.at(name);
      ASSERT_EQ(matrix.k(), raw.shape[1]) << name;
      // What kernels/ makes of the tensor alone, which tests/kernels/ holds to its twin.
      std::vector<float> values(raw.size());
      for (int64_t i = 0; i < raw.size(); ++i) values[i] = raw[i];
      PackedMatrix alone(raw.shape[0], raw.shape[1], stored);
      ThreadPool pool(1);
      alone.PackRows(0, raw.shape[0], values.data(), DType::kF32, pool);
      int64_t different = 0;
      for (int64_t i = 0; i < raw.size(); ++i) {
        const float expected = stored == Storage::kF32    ? raw[i]
                               : stored == Storage::kBF16 ? NearestBF16(raw[i])
                                                          : alone.At(i / matrix.k(), i % matrix.k());
        different += matrix.At(row + i / matrix.k(), i % matrix.k()) != expected;
      }
      EXPECT_EQ(different, 0) << name;
      row += raw.shape[0];
      ++used_;
    }
    EXPECT_EQ(matrix.n(), row) << names[0];
    bytes_ += matrix.bytes();
  }

  // No names: the model has no such vector.
  void Vector(const std::vector<float>& vector, const std::vector<std::string>& names) {
    std::vector<float> expected;
    for (const std::string& name : names) {
      for (int64_t i = 0; i < raw_.at(name).size(); ++i) expected.push_back(raw_.at(name)[i]);
      ++used_;
    }
    EXPECT_EQ(vector, expected) << ::testing::PrintToString(names);
    bytes_ += vector.size() * sizeof(float);
  }

  size_t used() const { return used_; }
  size_t bytes() const { return bytes_; }

 private:
  // How a matrix of these tensors is to be held.
  Storage Expected(const std::vector<std::string>& names) const {
    if (format_ == WeightFormat::kF32) return Storage::kF32;
    if (format_ == WeightFormat::kBF16) return Storage::kBF16;
    if (format_ == WeightFormat::kF16) return Storage::kF16;
    if (format_ == WeightFormat::kI8) return Storage::kI8;
    if (format_ == WeightFormat::kI4) {
      const bool finer = names[0] == "model.embed_tokens.weight" || names[0] == "lm_head.weight" ||
                         names[0].find("o_proj") != std::string::npos;
      return finer ? Storage::kI8 : Storage::kI4;
    }
    std::set<std::string> dtypes;
    for (const std::string& name : names) dtypes.insert(raw_.at(name).dtype);
    if (dtypes == std::set<std::string>{"BF16"}) return Storage::kBF16;
    if (dtypes == std::set<std::string>{"F16"}) return Storage::kF16;
    return Storage::kF32;
  }

  const RawTensors& raw_;
  const WeightFormat format_;
  size_t used_ = 0, bytes_ = 0;
};

void ExpectWeights(const std::string& dir, const ModelConfig& config, WeightFormat format) {
  const absl::StatusOr<Weights> weights = Load(dir, config, format);
  ASSERT_TRUE(weights.ok()) << weights.status();
  const RawTensors raw = ReadRawTensors(dir);
  Checker check(raw, format);
  // Names with `suffix` under `prefix`, those that the file has.
  const auto present = [&](const std::string& prefix, const std::vector<std::string>& suffixes) {
    std::vector<std::string> names;
    for (const std::string& suffix : suffixes) {
      if (raw.contains(prefix + suffix)) names.push_back(prefix + suffix);
    }
    return names;
  };
  check.Matrix(weights->embedding, {"model.embed_tokens.weight"});
  ASSERT_EQ(weights->layers.size(), static_cast<size_t>(config.layers));
  for (size_t i = 0; i < weights->layers.size(); ++i) {
    const LayerWeights& layer = weights->layers[i];
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    const std::string attention = prefix + "self_attn.", mlp = prefix + "mlp.";
    check.Vector(layer.attention_norm, {prefix + "input_layernorm.weight"});
    check.Matrix(layer.qkv,
                 {attention + "q_proj.weight", attention + "k_proj.weight", attention + "v_proj.weight"});
    check.Vector(layer.qkv_bias, present(attention, {"q_proj.bias", "k_proj.bias", "v_proj.bias"}));
    check.Vector(layer.q_norm, present(attention, {"q_norm.weight"}));
    check.Vector(layer.k_norm, present(attention, {"k_norm.weight"}));
    check.Matrix(layer.output, {attention + "o_proj.weight"});
    check.Vector(layer.output_bias, present(attention, {"o_proj.bias"}));
    check.Vector(layer.mlp_norm, {prefix + "post_attention_layernorm.weight"});
    check.Matrix(layer.gate_up, {mlp + "gate_proj.weight", mlp + "up_proj.weight"});
    check.Vector(layer.gate_up_bias, present(mlp, {"gate_proj.bias", "up_proj.bias"}));
    check.Matrix(layer.down, {mlp + "down_proj.weight"});
    check.Vector(layer.down_bias, present(mlp, {"down_proj.bias"}));
  }
  check.Vector(weights->final_norm, {"model.norm.weight"});
  EXPECT_EQ(weights->head.n() == 0, config.tied_head);
  if (!config.tied_head) check.Matrix(weights->head, {"lm_head.weight"});
  EXPECT_EQ(&weights->head_matrix(), config.tied_head ? &weights->embedding : &weights->head);
  EXPECT_EQ(check.used(), raw.size());
  EXPECT_EQ(check.bytes(), weights->bytes());
}

class WeightsOfModel : public ::testing::TestWithParam<std::tuple<std::string, WeightFormat>> {};
INSTANTIATE_TEST_SUITE_P(
    All, WeightsOfModel,
    ::testing::Combine(::testing::Values("tiny-llama", "tiny-qwen2", "tiny-qwen3", "tiny-mistral"),
                       ::testing::ValuesIn(kFormats)));

TEST_P(WeightsOfModel, EveryWeightIsTheFiles) {
  const auto [model, format] = GetParam();
  ExpectWeights(Testdata(model), ConfigOf(Testdata(model)), format);
}

TEST(Weights, DemoModel) {
  ExpectWeights(CLAMOR_DEMO_MODEL, ConfigOf(CLAMOR_DEMO_MODEL), WeightFormat::kStored);
}

// A Llama with all biases, every dtype in every field in turn, at a data section of every alignment.
TEST(Weights, MixedDTypesBiasesAndUnalignedData) {
  ModelConfig config = ConfigOf(Testdata("tiny-llama"));
  config.qkv_bias = config.output_bias = config.mlp_bias = true;
  RawTensors plain = ReadRawTensors(Testdata("tiny-llama"));
  for (int i = 0; i < config.layers; ++i) {
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    for (const auto& [name, size] : {std::pair{"self_attn.q_proj", 64},
                                     {"self_attn.k_proj", 32},
                                     {"self_attn.v_proj", 32},
                                     {"self_attn.o_proj", 64},
                                     {"mlp.gate_proj", 160},
                                     {"mlp.up_proj", 160},
                                     {"mlp.down_proj", 64}}) {
      plain[prefix + name + ".bias"] = {"F32", {size}, {}};
    }
  }
  std::mt19937 random(7);
  for (int pad = 0; pad < 4; ++pad) {
    RawTensors mixed;
    for (const auto& [name, tensor] : plain) {
      int64_t size = 1;
      for (const int64_t dim : tensor.shape) size *= dim;
      const std::string dtype = std::vector<std::string>{"F32", "BF16", "BF16", "F16"}[random() % 4];
      RawTensor filled = {dtype, tensor.shape, {}};
      for (int64_t j = 0; j < size * (dtype == "F32" ? 2 : 1); ++j) {
        const uint16_t bits =
            static_cast<uint16_t>(random()) & 0xbbff;  // any sign and mantissa, no infinities
        filled.bytes.append(reinterpret_cast<const char*>(&bits), 2);
      }
      mixed[name] = std::move(filled);
    }
    TempDir dir;
    WriteFile(dir / "model.safetensors", WriteRawTensors(mixed, pad));
    for (const WeightFormat format : {WeightFormat::kStored, WeightFormat::kF32, WeightFormat::kBF16,
                                      WeightFormat::kI8, WeightFormat::kI4}) {  // not all fit fp16
      ExpectWeights(dir.path(), config, format);
    }
  }
}

TEST(Weights, ProgressEndsAtTheTotal) {
  ThreadPool pool(1);
  uint64_t last = 0, total_seen = 0;
  int calls = 0;
  const auto progress = [&](uint64_t done, uint64_t total) {
    EXPECT_GT(done, last);
    EXPECT_TRUE(calls++ == 0 || total == total_seen) << total;
    last = done;
    total_seen = total;
  };
  const std::string dir = Testdata("tiny-qwen2");
  ASSERT_TRUE(Weights::Load(dir, ConfigOf(dir), WeightFormat::kF32, pool, progress).ok());
  EXPECT_GT(calls, 10);
  EXPECT_EQ(last, total_seen);
  uint64_t bytes = 0;
  for (const auto& [name, raw] : ReadRawTensors(dir)) bytes += raw.bytes.size();
  EXPECT_EQ(total_seen, bytes);
}

class WeightErrors : public ::testing::Test {
 protected:
  // What Load says of tiny-llama with `tensors` and `config`.
  std::string Error() {
    TempDir dir;
    WriteFile(dir / "model.safetensors", WriteRawTensors(tensors_));
    const absl::Status status = Load(dir.path(), config_, WeightFormat::kStored).status();
    EXPECT_THAT(std::string(status.message()), HasSubstr(dir.path()));
    return status.ToString();
  }

  ModelConfig config_ = ConfigOf(Testdata("tiny-llama"));
  RawTensors tensors_ = ReadRawTensors(Testdata("tiny-llama"));
};

TEST_F(WeightErrors, ConfigAndFileDisagree) {
  config_.intermediate_size = 161;
  EXPECT_THAT(Error(), AllOf(HasSubstr("INVALID_ARGUMENT"),
                             HasSubstr("tensor \"model.layers.0.mlp.gate_proj.weight\""),
                             HasSubstr("has shape [160, 64], the config asks for [161, 64]")));
}

TEST_F(WeightErrors, AHugeConfigCostsNothing) {
  config_.vocab_size = 4 << 20;
  config_.hidden_size = 1 << 17;
  EXPECT_THAT(Error(), HasSubstr("has shape [640, 64], the config asks for [4194304, 131072]"));
}

TEST_F(WeightErrors, MissingTensors) {
  tensors_.erase("model.layers.1.self_attn.v_proj.weight");
  EXPECT_THAT(Error(), AllOf(HasSubstr("NOT_FOUND"),
                             HasSubstr("no tensor \"model.layers.1.self_attn.v_proj.weight\"")));
}

TEST_F(WeightErrors, AnUntiedModelWithoutHead) {
  tensors_.erase("lm_head.weight");
  EXPECT_THAT(Error(), HasSubstr("no tensor \"lm_head.weight\""));
}

TEST_F(WeightErrors, UnexpectedTensorsAreListedUpToFive) {
  for (const char* name : {"a", "b", "c"}) tensors_[name] = {"F32", {1}, "1234"};
  EXPECT_THAT(Error(), AllOf(HasSubstr("INVALID_ARGUMENT"),
                             HasSubstr(": 3 tensors that the config does not ask for: \"a\", \"b\", \"c\""),
                             Not(HasSubstr("..."))));
  for (const char* name : {"d", "e", "f"}) tensors_[name] = {"F32", {1}, "1234"};
  EXPECT_THAT(
      Error(),
      HasSubstr(": 6 tensors that the config does not ask for: \"a\", \"b\", \"c\", \"d\", \"e\", ..."));
}

TEST_F(WeightErrors, ALayerTooFew) {
  config_.layers = 1;
  config_.window.resize(1);
  EXPECT_THAT(Error(), HasSubstr("9 tensors that the config does not ask for: \"model.layers.1."));
}

TEST_F(WeightErrors, UnsupportedDType) {
  tensors_["model.norm.weight"] = {"F64", {64}, std::string(512, 'x')};
  EXPECT_THAT(Error(),
              HasSubstr("tensor \"model.norm.weight\" has dtype \"F64\", supported are F32, BF16 and F16"));
}

TEST(Weights, RotaryCachesAndTheHeadOfATiedModelAreIgnored) {
  RawTensors tensors = ReadRawTensors(Testdata("tiny-qwen2"));
  tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = {"F32", {8}, std::string(32, 'x')};
  tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"];
  TempDir dir;
  WriteFile(dir / "model.safetensors", WriteRawTensors(tensors));
  const absl::StatusOr<Weights> weights =
      Load(dir.path(), ConfigOf(Testdata("tiny-qwen2")), WeightFormat::kStored);
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(weights->head.n(), 0);
}

TEST(Weights, NoFiles) {
  TempDir dir;
  EXPECT_TRUE(
      absl::IsNotFound(Load(dir.path(), ConfigOf(Testdata("tiny-llama")), WeightFormat::kF32).status()));
}

// Values that a format cannot hold are an error, not garbage.
TEST_F(WeightErrors, ValuesBeyondTheFormat) {
  const std::string name = "model.layers.1.mlp.down_proj.weight";
  const RawTensor plain = tensors_.at(name);
  ASSERT_EQ(plain.dtype, "F32");
  const auto error = [&](float value, WeightFormat format) {
    TempDir dir;
    std::memcpy(tensors_.at(name).bytes.data() + 4 * 5003, &value, 4);
    WriteFile(dir / "model.safetensors", WriteRawTensors(tensors_));
    const absl::Status status = Load(dir.path(), config_, format).status();
    tensors_.at(name) = plain;
    return status.ToString();
  };
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float value : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()}) {
    for (const WeightFormat format : {WeightFormat::kI8, WeightFormat::kI4}) {
      EXPECT_THAT(error(value, format),
                  AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("model.safetensors: element 5003 of tensor"),
                        HasSubstr(name), HasSubstr("is not finite"), HasSubstr(WeightFormatName(format))));
    }
    EXPECT_EQ(error(value, WeightFormat::kF32), "OK");
    EXPECT_EQ(error(value, WeightFormat::kBF16), "OK");
  }
  for (const WeightFormat format : {WeightFormat::kI8, WeightFormat::kI4}) {
    EXPECT_EQ(error(std::numeric_limits<float>::max(), format), "OK");
  }
  EXPECT_THAT(error(-65520.0f, WeightFormat::kF16), HasSubstr("is not below 65520, fp16 weights cannot hold it"));
  EXPECT_THAT(error(infinity, WeightFormat::kF16), HasSubstr("element 5003"));
  EXPECT_EQ(error(65519.0f, WeightFormat::kF16), "OK");
  // The same in 16 bits, where the comparison is by other bits; the first of several is named.
  for (const auto& [dtype, bits, format] :
       {std::tuple{"BF16", 0x7f80, WeightFormat::kI8}, {"BF16", 0xffff, WeightFormat::kI4},
        {"BF16", 0x4780, WeightFormat::kF16}, {"F16", 0xfc00, WeightFormat::kI4}, {"F16", 0x7c01, WeightFormat::kF16}}) {
    tensors_.at(name) = {dtype, plain.shape, std::string(plain.bytes.size() / 2, '\0')};
    for (const int64_t element : {77, 9000}) std::memcpy(tensors_.at(name).bytes.data() + 2 * element, &bits, 2);
    TempDir dir;
    WriteFile(dir / "model.safetensors", WriteRawTensors(tensors_));
    EXPECT_THAT(Load(dir.path(), config_, format).status().ToString(), HasSubstr("element 77 of tensor")) << bits;
    EXPECT_TRUE(Load(dir.path(), config_, WeightFormat::kStored).ok());
  }
  tensors_.at(name) = {"BF16", plain.shape, std::string(plain.bytes.size() / 2, '\0')};
  const uint16_t below = 0x477f;
  std::memcpy(tensors_.at(name).bytes.data(), &below, 2);
  TempDir dir;
  WriteFile(dir / "model.safetensors", WriteRawTensors(tensors_));
  EXPECT_TRUE(Load(dir.path(), config_, WeightFormat::kF16).ok());
}

// Sizes that groups of 32 do not divide.
TEST(Weights, OddSizesInEveryFormat) {
  ModelConfig config = ConfigOf(Testdata("tiny-llama"));
  config.hidden_size = 20;
  config.intermediate_size = 48;
  config.head_dim = 6;
  RawTensors tensors;
  std::mt19937 random(3);
  const ModelTensors wanted = TensorsOf(config);
  const auto add = [&](const TensorGroup& group) {
    for (const TensorShape& tensor : group) {
      RawTensor raw = {"BF16", tensor.shape, {}};
      int64_t size = 1;
      for (const int64_t dim : tensor.shape) size *= dim;
      for (int64_t i = 0; i < size; ++i) {
        const uint16_t bits = static_cast<uint16_t>(random()) & 0xbbff;
        raw.bytes.append(reinterpret_cast<const char*>(&bits), 2);
      }
      tensors[tensor.name] = std::move(raw);
    }
  };
  for (const LayerTensors& layer : wanted.layers) {
    for (const TensorGroup* group : {&layer.attention_norm, &layer.qkv, &layer.output, &layer.mlp_norm,
                                     &layer.gate_up, &layer.down}) {
      add(*group);
    }
  }
  for (const TensorGroup* group : {&wanted.embedding, &wanted.final_norm, &wanted.head}) add(*group);
  TempDir dir;
  WriteFile(dir / "model.safetensors", WriteRawTensors(tensors));
  for (const WeightFormat format : kFormats) ExpectWeights(dir.path(), config, format);
}

TEST(ParseWeightFormat, KnowsItsNames) {
  for (const WeightFormat format : kFormats) EXPECT_EQ(*ParseWeightFormat(WeightFormatName(format)), format);
  EXPECT_EQ(*ParseWeightFormat("stored"), WeightFormat::kStored);
  EXPECT_EQ(*ParseWeightFormat("int4"), WeightFormat::kI4);
  EXPECT_EQ(ParseWeightFormat("int2").status().message(),
            "weight format is \"int2\", must be stored, fp32, bf16, fp16, int8 or int4");
}

}  // namespace
}  // namespace clamor
