#include "model/train/parameters.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "kernels/elementwise.h"
#include "kernels/float_formats.h"
#include "kernels/status_macros.h"
#include "model/safetensors.h"
#include "model/spec/noise.h"

namespace clamor {
namespace {

using kernels::DType;

// Tensors may stand at any address of their file.
uint16_t Element16(const Tensor& tensor, size_t i) {
  uint16_t bits;
  std::memcpy(&bits, static_cast<const char*>(tensor.data) + i * sizeof(bits), sizeof(bits));
  return bits;
}

// Standard normal numbers by Marsaglia's polar method: of all methods the one that needs no function but Log
// and sqrt, which are the same everywhere.
class NormalStream {
 public:
  explicit NormalStream(uint64_t state) : state_(state) {}

  float Next() {
    if (has_spare_) {
      has_spare_ = false;
      return spare_;
    }
    float x, y, square;
    do {
      x = Uniform();
      y = Uniform();
      square = x * x + y * y;
    } while (square >= 1.0f || square == 0.0f);
    const float scale = std::sqrt(-2.0f * kernels::Log(square) / square);
    spare_ = y * scale;
    has_spare_ = true;
    return x * scale;
  }

 private:
  // In [-1, 1), in steps of 2^-23.
  float Uniform() { return static_cast<float>(NextRandom(state_) >> 40) * 0x1p-23f - 1.0f; }

  uint64_t state_;
  float spare_ = 0;
  bool has_spare_ = false;
};

// Far from the streams of other seeds and tensors: a SplitMix64 sequence begins at a hash of both.
uint64_t StreamOf(uint64_t seed, uint64_t tensor) {
  uint64_t state = seed;
  state = NextRandom(state) + tensor;
  return NextRandom(state);
}

std::vector<TensorShape> InOrder(const ModelTensors& model) {
  std::vector<TensorShape> tensors;
  const auto add = [&](const TensorGroup& group) {
    tensors.insert(tensors.end(), group.begin(), group.end());
  };
  add(model.embedding);
  for (const LayerTensors& layer : model.layers) {
    for (const auto* group : {&layer.attention_norm, &layer.qkv, &layer.qkv_bias, &layer.q_norm,
                              &layer.k_norm, &layer.output, &layer.output_bias, &layer.mlp_norm,
                              &layer.gate_up, &layer.gate_up_bias, &layer.down, &layer.down_bias}) {
      add(*group);
    }
  }
  add(model.final_norm);
  add(model.head);
  return tensors;
}

}  // namespace

ParameterTable::ParameterTable(std::vector<TensorShape> tensors) : tensors_(std::move(tensors)) {
  for (const TensorShape& tensor : tensors_) {
    int64_t size = 1;
    for (const int64_t dim : tensor.shape) size *= dim;
    index_.emplace(tensor.name, parameters_.size());
    parameters_.push_back({.offset = total_, .size = size, .decays = tensor.shape.size() == 2});
    total_ += size;
  }
  assert(index_.size() == tensors_.size());
}

size_t ParameterTable::IndexOf(std::string_view name) const { return index_.find(name)->second; }

const Parameter* ParameterTable::Find(std::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &parameters_[it->second];
}

ModelParameters::ModelParameters(const ModelConfig& config) : table(InOrder(TensorsOf(config))) {
  const ModelTensors model = TensorsOf(config);
  const auto offset = [this](const TensorGroup& group) {
    return group.empty() ? kNoParameter : table.Find(group.front().name)->offset;
  };
  embedding = offset(model.embedding);
  for (const LayerTensors& layer : model.layers) {
    layers.push_back({.attention_norm = offset(layer.attention_norm),
                      .qkv = offset(layer.qkv),
                      .qkv_bias = offset(layer.qkv_bias),
                      .q_norm = offset(layer.q_norm),
                      .k_norm = offset(layer.k_norm),
                      .output = offset(layer.output),
                      .output_bias = offset(layer.output_bias),
                      .mlp_norm = offset(layer.mlp_norm),
                      .gate_up = offset(layer.gate_up),
                      .gate_up_bias = offset(layer.gate_up_bias),
                      .down = offset(layer.down),
                      .down_bias = offset(layer.down_bias)});
  }
  final_norm = offset(model.final_norm);
  head = config.tied_head ? embedding : offset(model.head);
}

void WidenTensor(const Tensor& tensor, std::span<float> out) {
  switch (tensor.dtype) {
    case DType::kF32:
      std::memcpy(out.data(), tensor.data, tensor.bytes);
      break;
    case DType::kBF16:
      for (size_t i = 0; i < out.size(); ++i) out[i] = kernels::FromBF16(Element16(tensor, i));
      break;
    case DType::kF16:
      for (size_t i = 0; i < out.size(); ++i) out[i] = kernels::FromF16(Element16(tensor, i));
      break;
  }
}

absl::Status LoadParameters(const std::string& model_dir, const ModelConfig& config,
                            const ParameterTable& table, std::span<float> values,
                            absl::FunctionRef<void(uint64_t done, uint64_t total)> progress) {
  CLAMOR_ASSIGN_OR_RETURN(const std::unique_ptr<Safetensors> files, Safetensors::Open(model_dir));
  CLAMOR_ASSIGN_OR_RETURN(const std::vector<Tensor> tensors,
                          FindTensors(*files, model_dir, table.tensors(), config.tied_head));
  uint64_t done = 0, total = 0;
  for (const Tensor& tensor : tensors) total += tensor.bytes;
  for (size_t i = 0; i < tensors.size(); ++i) {
    WidenTensor(tensors[i], table.Slice(values, i));
    files->Release(tensors[i]);
    done += tensors[i].bytes;
    progress(done, total);
  }
  return absl::OkStatus();
}

void InitializeParameters(const ParameterTable& table, uint64_t seed, std::span<float> values) {
  constexpr float kDeviation = 0.02f;  // initializer_range of all four families
  for (size_t i = 0; i < table.tensors().size(); ++i) {
    const std::span<float> tensor = table.Slice(values, i);
    if (table.tensors()[i].shape.size() == 2) {
      NormalStream normal(StreamOf(seed, i));
      for (float& value : tensor) value = kDeviation * normal.Next();
    } else {
      const bool bias = absl::EndsWith(table.tensors()[i].name, ".bias");
      std::fill(tensor.begin(), tensor.end(), bias ? 0.0f : 1.0f);
    }
  }
}

}  // namespace clamor
