// What a Hugging Face model directory says of its model: `config.json` and `generation_config.json`, parsed
// once and checked; nothing downstream checks again.
//
// Tested by tests/model/checkpoint/config_test.cc.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace clamor {

enum class Family : uint8_t { kLlama, kQwen2, kQwen3, kMistral };

std::string_view FamilyName(Family family);  // the model_type: "llama", "qwen2", "qwen3", "mistral"

struct RopeConfig {
  enum class Scaling : uint8_t { kNone, kLinear, kLlama3 };
  double theta = 10000.0;
  Scaling scaling = Scaling::kNone;
  double factor = 1.0;
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  // llama3
  double original_max_position = 8192;                   // llama3

  // [head_dim / 2] radians per position, scaling applied (the formulas of transformers' modeling_rope_utils).
  std::vector<double> InverseFrequencies(int head_dim) const;
};

struct ModelConfig {
  Family family = Family::kLlama;
  int32_t vocab_size = 0;  // rows of the embedding and of the head
  int32_t hidden_size = 0;
  int32_t intermediate_size = 0;
  int32_t layers = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t max_positions = 0;  // context: prompt and answer together
  float rms_norm_eps = 1e-6f;
  RopeConfig rope;
  bool tied_head = false;       // lm_head is the embedding
  bool qkv_bias = false;        // of q, k and v: Qwen2 always, Llama and Qwen3 by attention_bias
  bool output_bias = false;     // of o_proj: Llama and Qwen3 by attention_bias
  bool mlp_bias = false;        // Llama
  bool qk_norm = false;         // Qwen3
  std::vector<int32_t> window;  // [layers] sliding window in tokens, 0: full attention

  int32_t q_size() const { return heads * head_dim; }
  int32_t kv_size() const { return kv_heads * head_dim; }
};

// Defaults that a model's authors ship for sampling; unset fields keep these.
struct GenerationDefaults {
  std::vector<int32_t> eos_ids;  // any of them ends an answer; from generation_config.json, else config.json
  int32_t bos_id = -1;           // -1: none
};

struct ModelDescription {
  ModelConfig config;
  GenerationDefaults generation;
};

// NOT_FOUND names the missing file. INVALID_ARGUMENT names file, field and value of what is missing, out of
// range, contradictory or not supported (another model_type, hidden_act, rope type, quantization_config...).
absl::StatusOr<ModelDescription> LoadModelDescription(const std::string& model_dir);

// The same from the two files' texts (generation_config may be empty).
absl::StatusOr<ModelDescription> ParseModelDescription(std::string_view config_json,
                                                       std::string_view generation_config_json);

}  // namespace clamor
