#include "model/cuda/device_weights.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cuda/step_io.h"
#include "kernels/float_formats.h"
#include "kernels/status_macros.h"
#include "model/model_tensors.h"
#include "model/safetensors.h"

namespace clamor {
namespace {

using kernels::DType;

constexpr size_t kAlignment = 256;
constexpr size_t kChunk = size_t{8} << 20;  // bytes of an upload

// One field of DeviceWeights and the tensors that fill it, one below the other.
struct Field {
  const uint16_t** matrix = nullptr;  // either this one,
  const float** vector = nullptr;     // or this one
  TensorGroup group;
  size_t at = 0;  // bytes from the beginning of the memory

  size_t ElementSize() const { return matrix != nullptr ? sizeof(uint16_t) : sizeof(float); }
};

int64_t Elements(const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (const int64_t size : shape) n *= size;
  return n;
}

std::vector<Field> Layout(ModelTensors model, DeviceWeights& weights) {
  std::vector<Field> fields;
  const auto matrix = [&](const uint16_t*& to, TensorGroup& group) {
    if (!group.empty()) fields.push_back({.matrix = &to, .group = std::move(group)});
  };
  const auto vector = [&](const float*& to, TensorGroup& group) {
    if (!group.empty()) fields.push_back({.vector = &to, .group = std::move(group)});
  };
  matrix(weights.embedding, model.embedding);
  matrix(weights.head, model.head);
  weights.layers.resize(model.layers.size());
  for (size_t i = 0; i < model.layers.size(); ++i) {
    LayerTensors& from = model.layers[i];
    DeviceLayer& to = weights.layers[i];
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

// Places all fields one behind the other; a matrix of the vocabulary gets its surplus rows. Returns the end.
size_t Place(const ModelConfig& config, std::vector<Field>& fields) {
  size_t end = 0;
  for (Field& field : fields) {
    field.at = end;
    int64_t elements = 0;
    for (const TensorShape& tensor : field.group) elements += Elements(tensor.shape);
    const auto& shape = field.group[0].shape;
    if (shape.size() == 2 && shape[0] == config.vocab_size) {
      elements = DeviceWeights::PaddedVocab(config.vocab_size) * shape[1];
    }
    end += (elements * field.ElementSize() + kAlignment - 1) / kAlignment * kAlignment;
  }
  return end;
}

float ReadFloat(const std::byte* from, DType type) {
  if (type == DType::kF32) {
    float v;
    std::memcpy(&v, from, sizeof(v));
    return v;
  }
  uint16_t v;
  std::memcpy(&v, from, sizeof(v));
  return type == DType::kBF16 ? kernels::FromBF16(v) : kernels::FromF16(v);
}

// Elements of a file as bf16 or fp32.
void Convert(const std::byte* from, DType type, int64_t n, bool to_bf16, std::byte* to) {
  const size_t size = kernels::DTypeSize(type);
  if (to_bf16 ? type == DType::kBF16 : type == DType::kF32) {
    std::memcpy(to, from, n * size);
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    const float v = ReadFloat(from + i * size, type);
    if (to_bf16) {
      reinterpret_cast<uint16_t*>(to)[i] = kernels::ToBF16(v);
    } else {
      reinterpret_cast<float*>(to)[i] = v;
    }
  }
}

void UploadTensor(const Tensor& tensor, bool to_bf16, std::byte* to, kernels::cuda::Uploads& uploads,
                  kernels::cuda::Stream stream) {
  const size_t element = to_bf16 ? sizeof(uint16_t) : sizeof(float);
  const size_t stored = kernels::DTypeSize(tensor.dtype);
  const int64_t all = Elements(tensor.shape), step = static_cast<int64_t>(kChunk / element);
  const std::byte* const from = static_cast<const std::byte*>(tensor.data);
  for (int64_t begin = 0; begin < all; begin += step) {
    const int64_t n = std::min(step, all - begin);
    Convert(from + begin * stored, tensor.dtype, n, to_bf16, uploads.Next());
    uploads.Upload(to + begin * element, n * element, stream);
  }
}

}  // namespace

absl::StatusOr<DeviceWeights> DeviceWeights::Load(const std::string& model_dir, const ModelConfig& config,
                                                  kernels::cuda::Stream stream, Weights::Progress progress) {
  CLAMOR_ASSIGN_OR_RETURN(const std::unique_ptr<Safetensors> files, Safetensors::Open(model_dir));
  DeviceWeights weights;
  std::vector<Field> fields = Layout(TensorsOf(config), weights);
  TensorGroup wanted;
  for (const Field& field : fields) wanted.insert(wanted.end(), field.group.begin(), field.group.end());
  CLAMOR_ASSIGN_OR_RETURN(const std::vector<Tensor> tensors,
                          FindTensors(*files, model_dir, wanted, config.tied_head));
  uint64_t total = 0, done = 0;
  for (const Tensor& tensor : tensors) total += tensor.bytes;

  weights.bytes = Place(config, fields);
  weights.memory = kernels::cuda::DeviceBuffer(weights.bytes, stream);
  if (weights.memory.data() == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat(model_dir, ": the weights take ", weights.bytes,
                                                     " bytes in bf16, the device has ",
                                                     kernels::cuda::FreeDeviceBytes(), " left"));
  }
  kernels::cuda::Uploads uploads(kChunk);
  auto tensor = tensors.begin();
  for (const Field& field : fields) {
    std::byte* to = weights.memory.data() + field.at;
    if (field.matrix != nullptr) *field.matrix = reinterpret_cast<const uint16_t*>(to);
    if (field.vector != nullptr) *field.vector = reinterpret_cast<const float*>(to);
    for (size_t i = 0; i < field.group.size(); ++i, ++tensor) {
      UploadTensor(*tensor, field.matrix != nullptr, to, uploads, stream);
      to += Elements(tensor->shape) * field.ElementSize();
      files->Release(*tensor);
      done += tensor->bytes;
      progress(done, total);
    }
  }
  if (weights.head == nullptr) weights.head = weights.embedding;
  return weights;
}

}  // namespace clamor
