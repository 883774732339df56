#include "model/weights.h"

#include <algorithm>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/status_macros.h"
#include "model/checked_json.h"
#include "model/safetensors.h"

namespace clamor {
namespace {

using kernels::DType;
using kernels::PackedMatrix;

struct Part {
  std::string name;
  int64_t rows;
};

// One field of Weights and the tensors that fill it, one below the other.
struct Field {
  PackedMatrix* matrix = nullptr;        // either this one,
  std::vector<float>* vector = nullptr;  // or this one
  int64_t columns = 0;                   // of a matrix
  std::vector<Part> parts;
  std::vector<Tensor> tensors{};  // [parts], once found

  std::vector<int64_t> Shape(const Part& part) const {
    return matrix != nullptr ? std::vector<int64_t>{part.rows, columns} : std::vector<int64_t>{part.rows};
  }
};

// Every tensor of the model: where it goes and how large it must be. Pointers into `weights`. The largest
// come first, so that the pages of their files are gone again before most of the memory is in use.
std::vector<Field> Layout(const ModelConfig& c, Weights& weights) {
  std::vector<Field> fields;
  const auto matrix = [&](PackedMatrix& to, int64_t columns, std::vector<Part> parts) {
    fields.push_back({.matrix = &to, .columns = columns, .parts = std::move(parts)});
  };
  const auto vector = [&](std::vector<float>& to, std::vector<Part> parts) {
    fields.push_back({.vector = &to, .parts = std::move(parts)});
  };
  const int64_t hidden = c.hidden_size, q = c.q_size(), kv = c.kv_size(), inner = c.intermediate_size;

  matrix(weights.embedding, hidden, {{"model.embed_tokens.weight", c.vocab_size}});
  if (!c.tied_head) matrix(weights.head, hidden, {{"lm_head.weight", c.vocab_size}});
  weights.layers.resize(c.layers);
  for (int32_t i = 0; i < c.layers; ++i) {
    LayerWeights& layer = weights.layers[i];
    const std::string prefix = absl::StrCat("model.layers.", i, ".");
    const std::string attention = prefix + "self_attn.", mlp = prefix + "mlp.";
    vector(layer.attention_norm, {{prefix + "input_layernorm.weight", hidden}});
    matrix(layer.qkv, hidden,
           {{attention + "q_proj.weight", q},
            {attention + "k_proj.weight", kv},
            {attention + "v_proj.weight", kv}});
    if (c.qkv_bias) {
      vector(
          layer.qkv_bias,
          {{attention + "q_proj.bias", q}, {attention + "k_proj.bias", kv}, {attention + "v_proj.bias", kv}});
    }
    if (c.qk_norm) {
      vector(layer.q_norm, {{attention + "q_norm.weight", c.head_dim}});
      vector(layer.k_norm, {{attention + "k_norm.weight", c.head_dim}});
    }
    matrix(layer.output, q, {{attention + "o_proj.weight", hidden}});
    if (c.output_bias) vector(layer.output_bias, {{attention + "o_proj.bias", hidden}});
    vector(layer.mlp_norm, {{prefix + "post_attention_layernorm.weight", hidden}});
    matrix(layer.gate_up, hidden, {{mlp + "gate_proj.weight", inner}, {mlp + "up_proj.weight", inner}});
    if (c.mlp_bias)
      vector(layer.gate_up_bias, {{mlp + "gate_proj.bias", inner}, {mlp + "up_proj.bias", inner}});
    matrix(layer.down, inner, {{mlp + "down_proj.weight", hidden}});
    if (c.mlp_bias) vector(layer.down_bias, {{mlp + "down_proj.bias", hidden}});
  }
  vector(weights.final_norm, {{"model.norm.weight", hidden}});
  return fields;
}

// Finds the tensors of all fields, before anything is allocated: what a config claims costs nothing until the
// files bear it out. Returns the sum of their bytes.
absl::StatusOr<uint64_t> FindTensors(const Safetensors& files, std::vector<Field>& fields) {
  uint64_t bytes = 0;
  for (Field& field : fields) {
    for (const Part& part : field.parts) {
      CLAMOR_ASSIGN_OR_RETURN(Tensor tensor, files.Get(part.name, field.Shape(part)));
      bytes += tensor.bytes;
      field.tensors.push_back(std::move(tensor));
    }
  }
  return bytes;
}

absl::Status CheckNothingElse(const Safetensors& files, const std::string& dir, const ModelConfig& config,
                              const std::vector<Field>& fields) {
  std::set<std::string_view> used;
  for (const Field& field : fields) {
    for (const Part& part : field.parts) used.insert(part.name);
  }
  std::vector<std::string> unused;
  for (const std::string& name : files.Names()) {
    const bool tied = config.tied_head && name == "lm_head.weight";
    const bool rotary = absl::EndsWith(name, "rotary_emb.inv_freq");
    if (!used.contains(name) && !tied && !rotary) unused.push_back(Quote(name));
  }
  if (unused.empty()) return absl::OkStatus();
  const size_t count = unused.size();
  unused.resize(std::min<size_t>(count, 5));
  return absl::InvalidArgumentError(absl::StrCat(
      dir, ": ", count, " tensors that the config does not ask for: ", absl::StrJoin(unused, ", "),
      count > 5 ? ", ..." : ""));
}

DType StoredAs(const std::vector<Tensor>& tensors, WeightFormat format) {
  if (format == WeightFormat::kF32) return DType::kF32;
  if (format == WeightFormat::kBF16) return DType::kBF16;
  const bool all_bf16 =
      std::all_of(tensors.begin(), tensors.end(), [](const Tensor& t) { return t.dtype == DType::kBF16; });
  return all_bf16 ? DType::kBF16 : DType::kF32;
}

// Packs the tensors of `field`, giving their pages back one by one.
void Pack(const Safetensors& files, const Field& field, WeightFormat format, kernels::ThreadPool& pool) {
  int64_t rows = 0;
  for (const Part& part : field.parts) rows += part.rows;
  // A vector is packed as one column of fp32, which leaves all conversions to PackRows.
  PackedMatrix packed = field.matrix != nullptr
                            ? PackedMatrix(rows, field.columns, StoredAs(field.tensors, format))
                            : PackedMatrix(rows, 1, DType::kF32);
  int64_t row = 0;
  for (const Tensor& tensor : field.tensors) {
    // Old writers did not pad the header, so `data` may stand at any address; PackRows does not mind.
    packed.PackRows(row, tensor.shape[0], tensor.data, tensor.dtype, pool);
    files.Release(tensor);
    row += tensor.shape[0];
  }
  if (field.matrix != nullptr) {
    *field.matrix = std::move(packed);
  } else {
    field.vector->resize(rows);
    for (int64_t i = 0; i < rows; ++i) (*field.vector)[i] = packed.At(i, 0);
  }
}

}  // namespace

absl::StatusOr<WeightFormat> ParseWeightFormat(std::string_view name) {
  if (name == "stored") return WeightFormat::kStored;
  if (name == "fp32") return WeightFormat::kF32;
  if (name == "bf16") return WeightFormat::kBF16;
  return absl::InvalidArgumentError(
      absl::StrCat("weight format is ", Quote(std::string(name)), ", must be stored, fp32 or bf16"));
}

absl::StatusOr<Weights> Weights::Load(const std::string& model_dir, const ModelConfig& config,
                                      WeightFormat format, kernels::ThreadPool& pool, Progress progress) {
  CLAMOR_ASSIGN_OR_RETURN(const std::unique_ptr<Safetensors> files, Safetensors::Open(model_dir));
  Weights weights;
  std::vector<Field> fields = Layout(config, weights);
  CLAMOR_ASSIGN_OR_RETURN(const uint64_t total, FindTensors(*files, fields));
  CLAMOR_RETURN_IF_ERROR(CheckNothingElse(*files, model_dir, config, fields));
  uint64_t done = 0;
  for (const Field& field : fields) {
    Pack(*files, field, format, pool);
    for (const Tensor& tensor : field.tensors) done += tensor.bytes;
    progress(done, total);
  }
  return weights;
}

size_t Weights::bytes() const {
  size_t floats = final_norm.size(), matrices = embedding.bytes() + head.bytes();
  for (const LayerWeights& layer : layers) {
    for (const auto* v : {&layer.attention_norm, &layer.qkv_bias, &layer.q_norm, &layer.k_norm,
                          &layer.output_bias, &layer.mlp_norm, &layer.gate_up_bias, &layer.down_bias}) {
      floats += v->size();
    }
    for (const auto* m : {&layer.qkv, &layer.output, &layer.gate_up, &layer.down}) matrices += m->bytes();
  }
  return matrices + floats * sizeof(float);
}

}  // namespace clamor
