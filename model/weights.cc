#include "model/weights.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "model/checked_json.h"
#include "model/model_tensors.h"
#include "model/safetensors.h"

namespace clamor {
namespace {

using kernels::DType;
using kernels::PackedMatrix;
using kernels::Storage;

// One field of Weights and the tensors that fill it, one below the other.
struct Field {
  PackedMatrix* matrix = nullptr;        // either this one,
  std::vector<float>* vector = nullptr;  // or this one
  TensorGroup group;
  std::vector<Tensor> tensors{};  // [group], once found
};

// Where every tensor of the model goes. Pointers into `weights`. The largest come first, so that the pages of
// their files are gone again before most of the memory is in use.
std::vector<Field> Layout(ModelTensors model, Weights& weights) {
  std::vector<Field> fields;
  const auto matrix = [&](PackedMatrix& to, TensorGroup& group) {
    if (!group.empty()) fields.push_back({.matrix = &to, .group = std::move(group)});
  };
  const auto vector = [&](std::vector<float>& to, TensorGroup& group) {
    if (!group.empty()) fields.push_back({.vector = &to, .group = std::move(group)});
  };
  matrix(weights.embedding, model.embedding);
  matrix(weights.head, model.head);
  weights.layers.resize(model.layers.size());
  for (size_t i = 0; i < model.layers.size(); ++i) {
    LayerTensors& from = model.layers[i];
    LayerWeights& to = weights.layers[i];
    vector(to.attention_norm, from.attention_norm);
    matrix(to.qkv, from.qkv);
    vector(to.qkv_bias, from.qkv_bias);
    vector(to.q_norm, from.q_norm);
    vector(to.k_norm, from.k_norm);
    matrix(to.output, from.output);
    vector(to.output_bias, from.output_bias);
    vector(to.mlp_norm, from.mlp_norm);
    matrix(to.gate_up, from.gate_up);
    vector(to.gate_up_bias, from.gate_up_bias);
    matrix(to.down, from.down);
    vector(to.down_bias, from.down_bias);
  }
  vector(weights.final_norm, model.final_norm);
  return fields;
}

// Fills in the tensors of all fields. Returns the sum of their bytes.
absl::StatusOr<uint64_t> FindFields(const std::string& model_dir, const Safetensors& files, bool tied_head,
                                    std::vector<Field>& fields) {
  TensorGroup wanted;
  for (const Field& field : fields) wanted.insert(wanted.end(), field.group.begin(), field.group.end());
  CLAMOR_ASSIGN_OR_RETURN(std::vector<Tensor> found, FindTensors(files, model_dir, wanted, tied_head));
  uint64_t bytes = 0;
  auto next = found.begin();
  for (Field& field : fields) {
    for (size_t i = 0; i < field.group.size(); ++i, ++next) {
      bytes += next->bytes;
      field.tensors.push_back(std::move(*next));
    }
  }
  return bytes;
}

Storage StoredAs(const std::vector<Tensor>& tensors, WeightFormat format) {
  if (format == WeightFormat::kF32) return Storage::kF32;
  if (format == WeightFormat::kBF16) return Storage::kBF16;
  const bool all_bf16 =
      std::all_of(tensors.begin(), tensors.end(), [](const Tensor& t) { return t.dtype == DType::kBF16; });
  return all_bf16 ? Storage::kBF16 : Storage::kF32;
}

// Packs the tensors of `field`, giving their pages back one by one.
void Pack(const Safetensors& files, const Field& field, WeightFormat format, kernels::ThreadPool& pool) {
  int64_t rows = 0;
  for (const TensorShape& tensor : field.group) rows += tensor.shape[0];
  // A vector is packed as one column of fp32, which leaves all conversions to PackRows.
  PackedMatrix packed = field.matrix != nullptr
                            ? PackedMatrix(rows, field.group[0].shape[1], StoredAs(field.tensors, format))
                            : PackedMatrix(rows, 1, Storage::kF32);
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
  std::vector<Field> fields = Layout(TensorsOf(config), weights);
  CLAMOR_ASSIGN_OR_RETURN(const uint64_t total, FindFields(model_dir, *files, config.tied_head, fields));
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
