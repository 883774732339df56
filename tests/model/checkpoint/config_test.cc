#include "model/config.h"

#include <cmath>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/model/checkpoint/model_files.h"

namespace clamor {
namespace {

using nlohmann::json;
using test::ReadFile;
using test::TempDir;
using test::Testdata;
using test::WriteFile;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// The least that a config must say.
json Minimal(const std::string& model_type) {
  return {{"model_type", model_type},      {"vocab_size", 100},      {"hidden_size", 64},
          {"intermediate_size", 160},      {"num_hidden_layers", 4}, {"num_attention_heads", 4},
          {"max_position_embeddings", 512}};
}

json With(json config, const json& changes) {
  config.update(changes);
  return config;
}

ModelConfig Parsed(const json& config) {
  const absl::StatusOr<ModelDescription> description = ParseModelDescription(config.dump(), "");
  EXPECT_TRUE(description.ok()) << description.status() << config;
  return description.ok() ? description->config : ModelConfig();
}

std::string Error(const json& config, const std::string& generation = "") {
  const absl::Status status = ParseModelDescription(config.dump(), generation).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << config << generation;
  return std::string(status.message());
}

TEST(LoadModelDescription, ReadsTheGoldenModels) {
  const ModelConfig llama = LoadModelDescription(Testdata("tiny-llama"))->config;
  EXPECT_EQ(llama.family, Family::kLlama);
  EXPECT_THAT((std::vector{llama.vocab_size, llama.hidden_size, llama.intermediate_size, llama.layers,
                           llama.heads, llama.kv_heads, llama.head_dim, llama.max_positions}),
              ElementsAre(640, 64, 160, 2, 4, 2, 16, 512));
  EXPECT_EQ(llama.q_size(), 64);
  EXPECT_EQ(llama.kv_size(), 32);
  EXPECT_EQ(llama.rms_norm_eps, 1e-5f);
  EXPECT_EQ(llama.rope.scaling, RopeConfig::Scaling::kLlama3);
  EXPECT_EQ(llama.rope.theta, 50000);
  EXPECT_EQ(llama.rope.factor, 8);
  EXPECT_EQ(llama.rope.original_max_position, 64);
  EXPECT_FALSE(llama.tied_head || llama.qkv_bias || llama.output_bias || llama.mlp_bias || llama.qk_norm);
  EXPECT_THAT(llama.window, ElementsAre(0, 0));

  const ModelConfig qwen2 = LoadModelDescription(Testdata("tiny-qwen2"))->config;
  EXPECT_EQ(qwen2.family, Family::kQwen2);
  EXPECT_TRUE(qwen2.tied_head && qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.output_bias || qwen2.qk_norm);
  EXPECT_EQ(qwen2.head_dim, 16);
  EXPECT_EQ(qwen2.rope.theta, 1e6);
  EXPECT_THAT(qwen2.window, ElementsAre(0, 0));

  const ModelConfig qwen3 = LoadModelDescription(Testdata("tiny-qwen3"))->config;
  EXPECT_EQ(qwen3.family, Family::kQwen3);
  EXPECT_EQ(qwen3.head_dim, 32);
  EXPECT_EQ(qwen3.q_size(), 128);
  EXPECT_TRUE(qwen3.qk_norm);
  EXPECT_FALSE(qwen3.qkv_bias || qwen3.tied_head);

  const absl::StatusOr<ModelDescription> mistral = LoadModelDescription(Testdata("tiny-mistral"));
  EXPECT_EQ(mistral->config.family, Family::kMistral);
  EXPECT_THAT(mistral->config.window, ElementsAre(24, 24));
  EXPECT_THAT(mistral->generation.eos_ids, ElementsAre(2));
  EXPECT_EQ(mistral->generation.bos_id, 1);

  const absl::StatusOr<ModelDescription> demo = LoadModelDescription(CLAMOR_DEMO_MODEL);
  ASSERT_TRUE(demo.ok()) << demo.status();
  EXPECT_EQ(demo->config.layers, 6);
}

TEST(LoadModelDescription, NamesTheFile) {
  TempDir dir;
  const auto load = [&] { return LoadModelDescription(dir.path()).status(); };
  EXPECT_TRUE(absl::IsNotFound(load()));
  EXPECT_THAT(std::string(load().message()), HasSubstr(dir / "config.json"));

  WriteFile(dir / "config.json", Minimal("llama").dump());
  EXPECT_TRUE(load().ok()) << load();  // generation_config.json may be absent
  WriteFile(dir / "generation_config.json", R"({"eos_token_id": 100})");
  EXPECT_THAT(std::string(load().message()),
              HasSubstr((dir / "generation_config.json") + ": eos_token_id is 100"));

  WriteFile(dir / "config.json", std::string((16 << 20) + 1, ' '));
  EXPECT_THAT(std::string(load().message()), HasSubstr("config.json: has 16777217 bytes, limit is 16777216"));
}

TEST(ModelConfig, DefaultsAreThoseOfTransformers) {
  for (const char* family : {"llama", "qwen2", "qwen3", "mistral"}) {
    const ModelConfig config = Parsed(Minimal(family));
    EXPECT_EQ(FamilyName(config.family), family);
    EXPECT_EQ(config.kv_heads, 4);
    EXPECT_EQ(config.head_dim, 16);
    EXPECT_EQ(config.rms_norm_eps, 1e-6f);
    EXPECT_EQ(config.rope.theta, 10000);
    EXPECT_EQ(config.rope.scaling, RopeConfig::Scaling::kNone);
    EXPECT_FALSE(config.tied_head);
    EXPECT_EQ(config.qkv_bias, config.family == Family::kQwen2);
    EXPECT_EQ(config.qk_norm, config.family == Family::kQwen3);
    EXPECT_THAT(config.window, AllOf(SizeIs(4), Each(config.family == Family::kMistral ? 4096 : 0)));
  }
}

TEST(ModelConfig, BiasesByFamily) {
  const json biased = {{"attention_bias", true}, {"mlp_bias", true}};
  const auto biases = [&](const char* family) {
    const ModelConfig c = Parsed(With(Minimal(family), biased));
    return std::vector<bool>{c.qkv_bias, c.output_bias, c.mlp_bias};
  };
  EXPECT_THAT(biases("llama"), ElementsAre(true, true, true));
  EXPECT_THAT(biases("qwen2"), ElementsAre(true, false, false));
  EXPECT_THAT(biases("qwen3"), ElementsAre(true, true, false));
  EXPECT_THAT(biases("mistral"), ElementsAre(false, false, false));
}

TEST(ModelConfig, RefusesBadValuesByName) {
  struct Case {
    json changes;
    const char* message;
  };
  const std::vector<Case> cases = {
      {{{"model_type", "gpt2"}},
       "config.json: model_type is \"gpt2\", supported are llama, qwen2, qwen3 and mistral"},
      {{{"model_type", 3}}, "model_type is 3"},
      {{{"model_type", nullptr}}, "model_type is missing"},
      {{{"vocab_size", nullptr}}, "config.json: vocab_size is missing"},
      {{{"vocab_size", 0}}, "vocab_size is 0, must be a whole number from 1 to 4194304"},
      {{{"vocab_size", 4194305}}, "vocab_size is 4194305, must be"},
      {{{"vocab_size", 100.0}}, "vocab_size is 100.0, must be a whole number"},
      {{{"vocab_size", "100"}}, "vocab_size is \"100\", must be a whole number"},
      {{{"hidden_size", -64}}, "hidden_size is -64"},
      {{{"hidden_size", 9223372036854775807}}, "hidden_size is 9223372036854775807"},
      {{{"intermediate_size", 18446744073709551615u}}, "intermediate_size is 18446744073709551615"},
      {{{"num_hidden_layers", 1025}}, "num_hidden_layers is 1025, must be a whole number from 1 to 1024"},
      {{{"num_hidden_layers", 0}}, "num_hidden_layers is 0"},
      {{{"num_attention_heads", 0}}, "num_attention_heads is 0"},
      {{{"num_key_value_heads", 3}},
       "num_attention_heads is 4, must be a multiple of num_key_value_heads, 3"},
      {{{"num_key_value_heads", 8}},
       "num_attention_heads is 4, must be a multiple of num_key_value_heads, 8"},
      {{{"num_key_value_heads", 0}}, "num_key_value_heads is 0"},
      {{{"hidden_size", 66}}, "hidden_size is 66, must be a multiple of num_attention_heads, 4"},
      {{{"hidden_size", 12}}, "head_dim (or hidden_size by heads) is 3, must be a multiple of 2"},
      {{{"hidden_size", 3}}, "hidden_size is 3, must be a multiple"},
      {{{"hidden_size", 4096}},
       "head_dim (or hidden_size by heads) is 1024, must be a multiple of 2 up to 512"},
      {{{"head_dim", 21}}, "head_dim (or hidden_size by heads) is 21, must be a multiple of 2"},
      {{{"head_dim", 0}}, "head_dim is 0, must be a whole number from 1 to 512"},
      {{{"max_position_embeddings", 0}}, "max_position_embeddings is 0"},
      {{{"max_position_embeddings", 1048577}},
       "max_position_embeddings is 1048577, must be a whole number from 1 to 1048576"},
      {{{"rms_norm_eps", 0}}, "rms_norm_eps is 0, must be a number from"},
      {{{"rms_norm_eps", -1e-6}}, "rms_norm_eps is -1e-06, must be a number from"},
      {{{"rms_norm_eps", "x"}}, "rms_norm_eps is \"x\", must be a number"},
      {{{"tie_word_embeddings", 1}}, "tie_word_embeddings is 1, must be true or false"},
      {{{"attention_bias", "no"}}, "attention_bias is \"no\", must be true or false"},
      {{{"hidden_act", "gelu"}}, "hidden_act is \"gelu\", supported is silu"},
      {{{"quantization_config", {{"quant_method", "gptq"}}}},
       "quantization_config is {\"quant_method\":\"gptq\"}"},
      {{{"rope_theta", 0.5}}, "rope_theta is 0.5"},
      {{{"rope_theta", "ten"}}, "rope_theta is \"ten\""},
      {{{"partial_rotary_factor", 0.5}}, "partial_rotary_factor is 0.5"},
      {{{"rope_scaling", 2}}, "rope_scaling is 2, must be an object"},
      {{{"rope_scaling", {{"type", "dynamic"}, {"factor", 2}}}},
       "config.json: rope_scaling.type is \"dynamic\", supported are default, linear and llama3"},
      {{{"rope_parameters", {{"rope_type", "yarn"}}}},
       "rope_parameters.rope_type is \"yarn\", supported are"},
      {{{"rope_parameters", {{"rope_type", "linear"}}}}, "rope_parameters.factor is missing"},
      {{{"rope_parameters", {{"rope_type", "linear"}, {"factor", 0.5}}}}, "rope_parameters.factor is 0.5"},
      {{{"rope_parameters", {{"rope_theta", -1}}}}, "rope_parameters.rope_theta is -1"},
      {{{"rope_parameters", {{"partial_rotary_factor", 0.25}}}},
       "rope_parameters.partial_rotary_factor is 0.25"},
      {{{"rope_parameters", {{"full_attention", {{"rope_theta", 5}}}}}},
       "rope_parameters.full_attention is {\"rope_theta\":5}"},
      {{{"rope_parameters", {{"rope_theta", 5}}}, {"rope_scaling", {{"type", "default"}}}},
       "only one of them may be given"},
      {{{"rope_scaling",
         {{"rope_type", "llama3"},
          {"factor", 8},
          {"low_freq_factor", 4},
          {"high_freq_factor", 4},
          {"original_max_position_embeddings", 64}}}},
       "rope_scaling.high_freq_factor is 4, must be above low_freq_factor, 4"},
      {{{"rope_scaling",
         {{"rope_type", "llama3"}, {"factor", 8}, {"low_freq_factor", 1}, {"high_freq_factor", 4}}}},
       "rope_scaling.original_max_position_embeddings is missing"},
      {{{"eos_token_id", 100}}, "config.json: eos_token_id is 100, must be a whole number from 0 to 99"},
      {{{"eos_token_id", {2, -1}}}, "eos_token_id is -1"},
      {{{"eos_token_id", "2"}}, "eos_token_id is \"2\""},
      {{{"eos_token_id", std::vector<int>(1025)}}, "eos_token_id lists 1025 ids, limit is 1024"},
      {{{"bos_token_id", 100}}, "bos_token_id is 100"},
  };
  for (const Case& c : cases) EXPECT_THAT(Error(With(Minimal("llama"), c.changes)), HasSubstr(c.message));
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                          "max_position_embeddings", "model_type"}) {
    json config = Minimal("llama");
    config.erase(key);
    EXPECT_EQ(Error(config), std::string("config.json: ") + key + " is missing");
  }
  EXPECT_EQ(Error(json::array({1})), "config.json: is [1], must be an object");
  EXPECT_EQ(Error(Minimal("llama"), "7"), "generation_config.json: is 7, must be an object");
  EXPECT_THAT(Error(Minimal("llama"), "{"), HasSubstr("generation_config.json: not JSON"));
}

TEST(ModelConfig, TheLargestSizesDoNotOverflow) {
  const ModelConfig config = Parsed(With(Minimal("llama"), {{"vocab_size", 4194304},
                                                            {"hidden_size", 131072},
                                                            {"intermediate_size", 1048576},
                                                            {"num_hidden_layers", 1024},
                                                            {"num_attention_heads", 1024},
                                                            {"head_dim", 512}}));
  EXPECT_EQ(int64_t{config.q_size()} + 2 * int64_t{config.kv_size()}, 3 * (int64_t{1} << 19));
  EXPECT_EQ(config.q_size(), 1 << 19);
}

TEST(ModelConfig, SlidingWindows) {
  const json mistral = Minimal("mistral"),
             qwen = With(Minimal("qwen2"), {{"sliding_window", 32}, {"max_window_layers", 1}});
  const auto window = [](const json& config) { return Parsed(config).window; };
  EXPECT_THAT(window(With(mistral, {{"sliding_window", 24}})), ElementsAre(24, 24, 24, 24));
  EXPECT_THAT(window(With(mistral, {{"sliding_window", nullptr}})), Each(0));
  EXPECT_THAT(window(With(Minimal("llama"), {{"sliding_window", 24}, {"use_sliding_window", true}})),
              Each(0));
  EXPECT_THAT(window(qwen), Each(0));
  EXPECT_THAT(window(With(qwen, {{"use_sliding_window", true}})), ElementsAre(0, 32, 32, 32));
  EXPECT_THAT(window(With(Minimal("qwen3"), {{"use_sliding_window", true}, {"max_window_layers", 3}})),
              ElementsAre(0, 0, 0, 4096));
  EXPECT_THAT(window(With(qwen, {{"use_sliding_window", true}, {"max_window_layers", 9}})), Each(0));
  const json types = {"sliding_attention", "full_attention", "sliding_attention", "full_attention"};
  EXPECT_THAT(window(With(qwen, {{"use_sliding_window", true}, {"layer_types", types}})),
              ElementsAre(32, 0, 32, 0));

  EXPECT_THAT(Error(With(qwen, {{"layer_types", types}})),
              HasSubstr("layer_types[0] is \"sliding_attention\", but use_sliding_window is not true"));
  EXPECT_THAT(Error(With(qwen, {{"layer_types", json::array({"full_attention"})}})),
              HasSubstr("layer_types is [\"full_attention\"], must be a list of num_hidden_layers, 4"));
  EXPECT_THAT(Error(With(qwen, {{"layer_types", {"full_attention", 7, "x", "y"}}})),
              HasSubstr("layer_types[1] is 7"));
  EXPECT_THAT(Error(With(mistral, {{"sliding_window", 0}})), HasSubstr("sliding_window is 0"));
}

TEST(ModelConfig, OldAndNewFormsOfRopeAreTheSame) {
  const json scaling = {{"factor", 8.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 64}};
  const json base = Minimal("llama");
  const std::vector<json> forms = {
      With(base, {{"rope_parameters", With(scaling, {{"rope_type", "llama3"}, {"rope_theta", 50000.0}})}}),
      With(base, {{"rope_scaling", With(scaling, {{"rope_type", "llama3"}})}, {"rope_theta", 50000.0}}),
      With(base, {{"rope_scaling", With(scaling, {{"type", "llama3"}})}, {"rope_theta", 50000}}),
      With(base, {{"rope_scaling", nullptr},
                  {"rope_parameters", With(scaling, {{"rope_type", "llama3"}})},
                  {"rope_theta", 50000}})};
  for (const json& form : forms) {
    EXPECT_EQ(Parsed(form).rope.InverseFrequencies(16),
              LoadModelDescription(Testdata("tiny-llama"))->config.rope.InverseFrequencies(16));
  }
  const RopeConfig plain = Parsed(With(base, {{"rope_scaling", nullptr}, {"rope_theta", 1e6}})).rope;
  EXPECT_EQ(plain.theta, 1e6);
  EXPECT_EQ(plain.scaling, RopeConfig::Scaling::kNone);
  const RopeConfig linear = Parsed(With(base, {{"rope_scaling", {{"type", "linear"}, {"factor", 4}}}})).rope;
  EXPECT_EQ(linear.scaling, RopeConfig::Scaling::kLinear);
  EXPECT_EQ(linear.factor, 4);
}

void ExpectNear(const std::vector<double>& actual, const std::vector<double>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) EXPECT_NEAR(actual[i] / expected[i], 1, 1e-13) << i;
}

// Expected values: the formulas of transformers' modeling_rope_utils, evaluated in Python.
TEST(RopeConfig, InverseFrequencies) {
  ExpectNear(RopeConfig{.theta = 1e6}.InverseFrequencies(16),
             {1.0, 0.1778279410038923, 0.03162277660168379, 0.005623413251903491, 0.001,
              0.00017782794100389227, 3.1622776601683795e-05, 5.623413251903491e-06});
  ExpectNear(RopeConfig{.scaling = RopeConfig::Scaling::kLinear, .factor = 4}.InverseFrequencies(16),
             {0.25, 0.07905694150420949, 0.025, 0.007905694150420948, 0.0025, 0.0007905694150420948, 0.00025,
              7.905694150420948e-05});
  const RopeConfig llama3 = {
      .theta = 50000, .scaling = RopeConfig::Scaling::kLlama3, .factor = 8, .original_max_position = 64};
  ExpectNear(llama3.InverseFrequencies(16),
             {1.0, 0.1555755176216028, 0.008359253812205276, 0.002161704175255327, 0.0005590169943749475,
              0.00014456187094290523, 3.738371953053051e-05, 9.66743496623206e-06});
}

TEST(RopeConfig, ALlama31Head) {
  const RopeConfig config = {.theta = 500000, .scaling = RopeConfig::Scaling::kLlama3, .factor = 8};
  const std::vector<double> all = config.InverseFrequencies(128);
  ASSERT_THAT(all, SizeIs(64));
  // Unchanged, the ramp, and divided by 8.
  ExpectNear({all[0], all[28], all[29], all[30], all[34], all[35], all[36], all[63]},
             {1.0, 0.003211445994752591, 0.002166570763503359, 0.0013718935677611381, 0.0001785078127679964,
              9.556212353964683e-05, 7.78465527393245e-05, 3.068925988914511e-07});
}

TEST(GenerationDefaults, ComeFromGenerationConfigThenConfig) {
  const json config = With(Minimal("llama"), {{"eos_token_id", 2}, {"bos_token_id", 1}});
  const auto parse = [](const json& config, const std::string& generation) {
    const absl::StatusOr<ModelDescription> description = ParseModelDescription(config.dump(), generation);
    EXPECT_TRUE(description.ok()) << description.status();
    return description.ok() ? description->generation : GenerationDefaults();
  };
  EXPECT_THAT(parse(config, "").eos_ids, ElementsAre(2));
  EXPECT_EQ(parse(config, "").bos_id, 1);
  EXPECT_THAT(parse(config, R"({"eos_token_id": [5, 6], "bos_token_id": 7})").eos_ids, ElementsAre(5, 6));
  EXPECT_EQ(parse(config, R"({"eos_token_id": [5, 6], "bos_token_id": 7})").bos_id, 7);
  EXPECT_THAT(parse(config, R"({"eos_token_id": null})").eos_ids, ElementsAre(2));
  EXPECT_THAT(parse(With(config, {{"eos_token_id", {3, 4}}}), "{}").eos_ids, ElementsAre(3, 4));
  EXPECT_THAT(parse(Minimal("llama"), "").eos_ids, IsEmpty());
  EXPECT_EQ(parse(Minimal("llama"), "").bos_id, -1);
}

}  // namespace
}  // namespace clamor
