#include "model/config.h"

#include <cmath>
#include <numbers>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "model/checked_json.h"
#include "model/mapped_file.h"

namespace clamor {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxFileBytes = 16 << 20;

// Generous for any known model, and small enough that no product of two of them that we form (q_size, rows of
// qkv and gate_up) leaves int32.
constexpr int32_t kMaxVocab = 4 << 20;
constexpr int32_t kMaxHidden = 1 << 17;
constexpr int32_t kMaxIntermediate = 1 << 20;
constexpr int32_t kMaxLayers = 1024;
constexpr int32_t kMaxHeads = 1024;
constexpr int32_t kMaxHeadDim = 512;
constexpr int32_t kMaxPositions = 1 << 20;
constexpr size_t kMaxEosIds = 1024;
constexpr int kHeadDimMultiple = 2;  // RoPE turns halves

absl::StatusOr<Family> ParseFamily(const JsonFields& fields) {
  const json* type = fields.Find("model_type");
  if (type == nullptr) return fields.Missing("model_type");
  for (const Family family : {Family::kLlama, Family::kQwen2, Family::kQwen3, Family::kMistral}) {
    if (*type == FamilyName(family)) return family;
  }
  return absl::InvalidArgumentError(absl::StrCat(fields.Name("model_type"), " is ", Quote(*type),
                                                 ", supported are llama, qwen2, qwen3 and mistral"));
}

absl::Status CheckSupported(const JsonFields& fields) {
  if (const json* quantization = fields.Find("quantization_config"); quantization != nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(fields.Name("quantization_config"), " is ",
                                                   Quote(*quantization),
                                                   ", quantized checkpoints are not supported"));
  }
  const json* activation = fields.Find("hidden_act");
  if (activation != nullptr && *activation != "silu" && *activation != "swish") {
    return absl::InvalidArgumentError(
        absl::StrCat(fields.Name("hidden_act"), " is ", Quote(*activation), ", supported is silu"));
  }
  return absl::OkStatus();
}

absl::Status ParseScaling(const JsonFields& rope, RopeConfig& config) {
  const char* key = rope.Find("rope_type") != nullptr ? "rope_type" : "type";  // older files say type
  const json* type = rope.Find(key);
  if (type == nullptr || *type == "default") return absl::OkStatus();
  if (*type != "linear" && *type != "llama3") {
    return absl::InvalidArgumentError(
        absl::StrCat(rope.Name(key), " is ", Quote(*type), ", supported are default, linear and llama3"));
  }
  CLAMOR_ASSIGN_OR_RETURN(config.factor, rope.Number("factor", 1, 1e6));
  config.scaling = RopeConfig::Scaling::kLinear;
  if (*type == "linear") return absl::OkStatus();
  config.scaling = RopeConfig::Scaling::kLlama3;
  CLAMOR_ASSIGN_OR_RETURN(config.low_freq_factor, rope.Number("low_freq_factor", 1e-6, 1e6));
  CLAMOR_ASSIGN_OR_RETURN(config.high_freq_factor, rope.Number("high_freq_factor", 1e-6, 1e6));
  if (config.high_freq_factor <= config.low_freq_factor) {
    return absl::InvalidArgumentError(
        absl::StrCat(rope.Name("high_freq_factor"), " is ", config.high_freq_factor,
                     ", must be above low_freq_factor, ", config.low_freq_factor));
  }
  CLAMOR_ASSIGN_OR_RETURN(config.original_max_position,
                          rope.Int("original_max_position_embeddings", 1, kMaxPositions));
  return absl::OkStatus();
}

// Files of transformers 5 hold rope_parameters; older ones rope_scaling, with rope_theta beside it.
absl::StatusOr<RopeConfig> ParseRope(const JsonFields& fields) {
  CLAMOR_ASSIGN_OR_RETURN(const JsonFields scaling, fields.Object("rope_scaling"));
  CLAMOR_ASSIGN_OR_RETURN(const JsonFields parameters, fields.Object("rope_parameters"));
  if (!scaling.object().empty() && !parameters.object().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(fields.Name("rope_scaling"), " is ", Quote(scaling.object()), " and rope_parameters is ",
                     Quote(parameters.object()), ", only one of them may be given"));
  }
  const JsonFields& rope = scaling.object().empty() ? parameters : scaling;
  for (const auto& [key, value] : rope.object().items()) {
    if (value.is_object()) {
      return absl::InvalidArgumentError(absl::StrCat(rope.Name(key), " is ", Quote(value),
                                                     ", parameters by kind of layer are not supported"));
    }
  }
  for (const JsonFields* place : {&fields, &rope}) {
    CLAMOR_RETURN_IF_ERROR(place->Number("partial_rotary_factor", 1, 1, 1.0).status());
  }
  RopeConfig config;
  CLAMOR_ASSIGN_OR_RETURN(const double theta, fields.Number("rope_theta", 1, 1e15, config.theta));
  CLAMOR_ASSIGN_OR_RETURN(config.theta, rope.Number("rope_theta", 1, 1e15, theta));
  CLAMOR_RETURN_IF_ERROR(ParseScaling(rope, config));
  return config;
}

absl::Status ParseSizes(const JsonFields& fields, ModelConfig& c) {
  CLAMOR_ASSIGN_OR_RETURN(c.vocab_size, fields.Int("vocab_size", 1, kMaxVocab));
  CLAMOR_ASSIGN_OR_RETURN(c.hidden_size, fields.Int("hidden_size", 1, kMaxHidden));
  CLAMOR_ASSIGN_OR_RETURN(c.intermediate_size, fields.Int("intermediate_size", 1, kMaxIntermediate));
  CLAMOR_ASSIGN_OR_RETURN(c.layers, fields.Int("num_hidden_layers", 1, kMaxLayers));
  CLAMOR_ASSIGN_OR_RETURN(c.heads, fields.Int("num_attention_heads", 1, kMaxHeads));
  CLAMOR_ASSIGN_OR_RETURN(c.kv_heads, fields.Int("num_key_value_heads", 1, kMaxHeads, c.heads));
  if (c.heads % c.kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(fields.Name("num_attention_heads"), " is ", c.heads,
                                                   ", must be a multiple of num_key_value_heads, ",
                                                   c.kv_heads));
  }
  CLAMOR_ASSIGN_OR_RETURN(c.head_dim, fields.Int("head_dim", 1, kMaxHeadDim, c.hidden_size / c.heads));
  if (fields.Find("head_dim") == nullptr && c.hidden_size % c.heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(fields.Name("hidden_size"), " is ", c.hidden_size,
                                                   ", must be a multiple of num_attention_heads, ", c.heads));
  }
  if (c.head_dim % kHeadDimMultiple != 0 || c.head_dim == 0 || c.head_dim > kMaxHeadDim) {
    return absl::InvalidArgumentError(absl::StrCat(fields.Name("head_dim"), " (or hidden_size by heads) is ",
                                                   c.head_dim, ", must be a multiple of ", kHeadDimMultiple,
                                                   " up to ", kMaxHeadDim));
  }
  CLAMOR_ASSIGN_OR_RETURN(c.max_positions, fields.Int("max_position_embeddings", 1, kMaxPositions));
  CLAMOR_ASSIGN_OR_RETURN(const double eps, fields.Number("rms_norm_eps", 1e-12, 1, 1e-6));
  c.rms_norm_eps = static_cast<float>(eps);
  return absl::OkStatus();
}

// Which tensors exist besides the obvious ones. What a family has no switch for is ignored, as in
// transformers.
absl::Status ParseOptionalTensors(const JsonFields& fields, ModelConfig& c) {
  CLAMOR_ASSIGN_OR_RETURN(c.tied_head, fields.Bool("tie_word_embeddings", false));
  CLAMOR_ASSIGN_OR_RETURN(const bool attention_bias, fields.Bool("attention_bias", false));
  CLAMOR_ASSIGN_OR_RETURN(const bool mlp_bias, fields.Bool("mlp_bias", false));
  c.output_bias = attention_bias && (c.family == Family::kLlama || c.family == Family::kQwen3);
  c.qkv_bias = c.output_bias || c.family == Family::kQwen2;
  c.mlp_bias = mlp_bias && c.family == Family::kLlama;
  c.qk_norm = c.family == Family::kQwen3;
  return absl::OkStatus();
}

// Qwen: layer_types says which layers slide; without it, those from max_window_layers on.
absl::Status ParseSlidingLayers(const JsonFields& fields, int32_t window, std::vector<int32_t>& windows) {
  CLAMOR_ASSIGN_OR_RETURN(const int32_t first, fields.Int("max_window_layers", 0, kMaxLayers, 28));
  const json* types = fields.Find("layer_types");
  if (types == nullptr) {
    for (size_t i = first; i < windows.size(); ++i) windows[i] = window;
    return absl::OkStatus();
  }
  if (!types->is_array() || types->size() != windows.size()) {
    return absl::InvalidArgumentError(absl::StrCat(fields.Name("layer_types"), " is ", Quote(*types),
                                                   ", must be a list of num_hidden_layers, ",
                                                   windows.size()));
  }
  for (size_t i = 0; i < windows.size(); ++i) {
    const json& type = (*types)[i];
    if (type != "full_attention" && type != "sliding_attention") {
      return absl::InvalidArgumentError(absl::StrCat(fields.Name("layer_types"), "[", i, "] is ", Quote(type),
                                                     ", supported are full_attention and sliding_attention"));
    }
    if (type == "full_attention") continue;
    if (window == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(fields.Name("layer_types"), "[", i, "] is ", Quote(type),
                       ", but use_sliding_window is not true or sliding_window is null"));
    }
    windows[i] = window;
  }
  return absl::OkStatus();
}

absl::Status ParseWindows(const JsonFields& fields, ModelConfig& c) {
  c.window.assign(c.layers, 0);
  if (c.family == Family::kLlama) return absl::OkStatus();
  const bool mistral = c.family == Family::kMistral;
  CLAMOR_ASSIGN_OR_RETURN(const bool switched_on, fields.Bool("use_sliding_window", false));
  int32_t window = 0;
  // Absent and null differ here: transformers' default is a window of 4096, and null is none.
  if ((mistral || switched_on) && !fields.IsNull("sliding_window")) {
    CLAMOR_ASSIGN_OR_RETURN(window, fields.Int("sliding_window", 1, 1 << 30, 4096));
  }
  if (!mistral) return ParseSlidingLayers(fields, window, c.window);
  c.window.assign(c.layers, window);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> ParseEos(const JsonFields& fields, int32_t vocab_size) {
  const json* value = fields.Find("eos_token_id");
  std::vector<int32_t> ids;
  if (value == nullptr) return ids;
  if (value->is_array() && value->size() > kMaxEosIds) {
    return absl::InvalidArgumentError(
        absl::StrCat(fields.Name("eos_token_id"), " lists ", value->size(), " ids, limit is ", kMaxEosIds));
  }
  for (const json& id : value->is_array() ? *value : json::array({*value})) {
    CLAMOR_ASSIGN_OR_RETURN(ids.emplace_back(), CheckInt(id, fields.Name("eos_token_id"), 0, vocab_size - 1));
  }
  return ids;
}

absl::StatusOr<GenerationDefaults> ParseGeneration(const JsonFields& generation, const JsonFields& config,
                                                   int32_t vocab_size) {
  GenerationDefaults defaults;
  CLAMOR_ASSIGN_OR_RETURN(defaults.eos_ids, ParseEos(config, vocab_size));
  CLAMOR_ASSIGN_OR_RETURN(std::vector<int32_t> eos_ids, ParseEos(generation, vocab_size));
  if (!eos_ids.empty()) defaults.eos_ids = std::move(eos_ids);
  CLAMOR_ASSIGN_OR_RETURN(const int32_t bos_id,
                          config.Int("bos_token_id", 0, vocab_size - 1, defaults.bos_id));
  CLAMOR_ASSIGN_OR_RETURN(defaults.bos_id, generation.Int("bos_token_id", 0, vocab_size - 1, bos_id));
  return defaults;
}

absl::StatusOr<json> ParseObject(std::string_view text, const std::string& file) {
  CLAMOR_ASSIGN_OR_RETURN(json object, ParseJson(text, file));
  if (object.is_object()) return object;
  return absl::InvalidArgumentError(absl::StrCat(file, ": is ", Quote(object), ", must be an object"));
}

// A file's text and what messages call it.
struct NamedText {
  std::string name;
  std::string_view text;
};

absl::StatusOr<ModelDescription> Parse(const NamedText& config_file, const NamedText& generation_file) {
  CLAMOR_ASSIGN_OR_RETURN(const json config_json, ParseObject(config_file.text, config_file.name));
  const std::string_view generation_text = generation_file.text.empty() ? "{}" : generation_file.text;
  CLAMOR_ASSIGN_OR_RETURN(const json generation_json, ParseObject(generation_text, generation_file.name));
  const JsonFields config(config_json, config_file.name + ": ");
  const JsonFields generation(generation_json, generation_file.name + ": ");

  ModelDescription description;
  ModelConfig& c = description.config;
  CLAMOR_ASSIGN_OR_RETURN(c.family, ParseFamily(config));
  CLAMOR_RETURN_IF_ERROR(CheckSupported(config));
  CLAMOR_RETURN_IF_ERROR(ParseSizes(config, c));
  CLAMOR_ASSIGN_OR_RETURN(c.rope, ParseRope(config));
  CLAMOR_RETURN_IF_ERROR(ParseOptionalTensors(config, c));
  CLAMOR_RETURN_IF_ERROR(ParseWindows(config, c));
  CLAMOR_ASSIGN_OR_RETURN(description.generation, ParseGeneration(generation, config, c.vocab_size));
  return description;
}

}  // namespace

std::string_view FamilyName(Family family) {
  switch (family) {
    case Family::kLlama:
      return "llama";
    case Family::kQwen2:
      return "qwen2";
    case Family::kQwen3:
      return "qwen3";
    case Family::kMistral:
      return "mistral";
  }
  return "unknown";
}

namespace {

// libm's exp and log differ between machines by their last bit; these are the same products and sums
// everywhere, good to about 1e-15.
double NaturalLog(double x) {
  int exponent = 0;
  const double mantissa = std::frexp(x, &exponent);  // in [0.5, 1)
  const double s = (mantissa - 1) / (mantissa + 1);
  double sum = 0;
  for (int k = 41; k >= 1; k -= 2) sum = sum * s * s + 1.0 / k;
  return exponent * std::numbers::ln2 + 2 * s * sum;
}

double Exponential(double x) {
  const double n = std::nearbyint(x / std::numbers::ln2);
  const double r = x - n * std::numbers::ln2;
  double sum = 1;
  for (int k = 20; k >= 1; --k) sum = 1 + r / k * sum;
  return std::ldexp(sum, static_cast<int>(n));
}

}  // namespace

std::vector<double> RopeConfig::InverseFrequencies(int head_dim) const {
  std::vector<double> frequencies(head_dim / 2);
  const double log_theta = NaturalLog(theta);
  for (int i = 0; i < head_dim / 2; ++i) {
    double& frequency = frequencies[i];
    frequency = Exponential(-2.0 * i / head_dim * log_theta);
    if (scaling == Scaling::kLinear) frequency /= factor;
    if (scaling != Scaling::kLlama3) continue;
    // Turns within the original context decide: few are stretched, many stay, and between the two there is a
    // ramp.
    const double turns = original_max_position * frequency / (2 * std::numbers::pi);
    if (turns < low_freq_factor) {
      frequency /= factor;
    } else if (turns <= high_freq_factor) {
      const double keep = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
      frequency = (1 - keep) * frequency / factor + keep * frequency;
    }
  }
  return frequencies;
}

absl::StatusOr<ModelDescription> ParseModelDescription(std::string_view config_json,
                                                       std::string_view generation_config_json) {
  return Parse({"config.json", config_json}, {"generation_config.json", generation_config_json});
}

absl::StatusOr<ModelDescription> LoadModelDescription(const std::string& model_dir) {
  CLAMOR_ASSIGN_OR_RETURN(const MappedFile config,
                          MappedFile::Open(model_dir + "/config.json", kMaxFileBytes));
  const std::string generation_path = model_dir + "/generation_config.json";
  const absl::StatusOr<MappedFile> generation = MappedFile::Open(generation_path, kMaxFileBytes);
  if (!generation.ok() && !absl::IsNotFound(generation.status())) return generation.status();
  return Parse({config.path(), config.bytes()},
               {generation_path, generation.ok() ? generation->bytes() : std::string_view()});
}

}  // namespace clamor
