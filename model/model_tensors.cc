#include "model/model_tensors.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/status_macros.h"
#include "model/checked_json.h"

namespace clamor {
namespace {

LayerTensors LayerOf(const ModelConfig& c, int32_t layer) {
  const int64_t hidden = c.hidden_size, q = c.q_size(), kv = c.kv_size(), inner = c.intermediate_size;
  const std::string prefix = absl::StrCat("model.layers.", layer, ".");
  const std::string attention = prefix + "self_attn.", mlp = prefix + "mlp.";
  LayerTensors t;
  t.attention_norm = {{prefix + "input_layernorm.weight", {hidden}}};
  t.qkv = {{attention + "q_proj.weight", {q, hidden}},
           {attention + "k_proj.weight", {kv, hidden}},
           {attention + "v_proj.weight", {kv, hidden}}};
  if (c.qkv_bias) {
    t.qkv_bias = {{attention + "q_proj.bias", {q}},
                  {attention + "k_proj.bias", {kv}},
                  {attention + "v_proj.bias", {kv}}};
  }
  if (c.qk_norm) {
    t.q_norm = {{attention + "q_norm.weight", {c.head_dim}}};
    t.k_norm = {{attention + "k_norm.weight", {c.head_dim}}};
  }
  t.output = {{attention + "o_proj.weight", {hidden, q}}};
  if (c.output_bias) t.output_bias = {{attention + "o_proj.bias", {hidden}}};
  t.mlp_norm = {{prefix + "post_attention_layernorm.weight", {hidden}}};
  t.gate_up = {{mlp + "gate_proj.weight", {inner, hidden}}, {mlp + "up_proj.weight", {inner, hidden}}};
  t.down = {{mlp + "down_proj.weight", {hidden, inner}}};
  if (c.mlp_bias) {
    t.gate_up_bias = {{mlp + "gate_proj.bias", {inner}}, {mlp + "up_proj.bias", {inner}}};
    t.down_bias = {{mlp + "down_proj.bias", {hidden}}};
  }
  return t;
}

absl::Status CheckNothingElse(const Safetensors& files, const std::string& model_dir,
                              std::span<const TensorShape> wanted, bool tied_head) {
  std::set<std::string_view> used;
  for (const TensorShape& tensor : wanted) used.insert(tensor.name);
  std::vector<std::string> unused;
  for (const std::string& name : files.Names()) {
    const bool tied = tied_head && name == "lm_head.weight";
    const bool rotary = absl::EndsWith(name, "rotary_emb.inv_freq");
    if (!used.contains(name) && !tied && !rotary) unused.push_back(Quote(name));
  }
  if (unused.empty()) return absl::OkStatus();
  const size_t count = unused.size();
  unused.resize(std::min<size_t>(count, 5));
  return absl::InvalidArgumentError(absl::StrCat(
      model_dir, ": ", count, " tensors that the config does not ask for: ", absl::StrJoin(unused, ", "),
      count > 5 ? ", ..." : ""));
}

}  // namespace

ModelTensors TensorsOf(const ModelConfig& c) {
  ModelTensors t;
  t.embedding = {{"model.embed_tokens.weight", {c.vocab_size, c.hidden_size}}};
  for (int32_t i = 0; i < c.layers; ++i) t.layers.push_back(LayerOf(c, i));
  t.final_norm = {{"model.norm.weight", {c.hidden_size}}};
  if (!c.tied_head) t.head = {{"lm_head.weight", {c.vocab_size, c.hidden_size}}};
  return t;
}

absl::StatusOr<std::vector<Tensor>> FindTensors(const Safetensors& files, const std::string& model_dir,
                                                std::span<const TensorShape> wanted, bool tied_head) {
  std::vector<Tensor> tensors;
  for (const TensorShape& tensor : wanted) {
    CLAMOR_ASSIGN_OR_RETURN(tensors.emplace_back(), files.Get(tensor.name, tensor.shape));
  }
  CLAMOR_RETURN_IF_ERROR(CheckNothingElse(files, model_dir, wanted, tied_head));
  return tensors;
}

}  // namespace clamor
