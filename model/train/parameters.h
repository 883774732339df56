// What is trained: fp32 tensors that lie one behind the other, without gaps, in one flat array. Gradients and
// moments are arrays of the same layout, so that an optimizer sees one vector.
//
// Tested by tests/model/train/parameters_test.cc.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "model/config.h"
#include "model/model_tensors.h"

namespace clamor {

struct Parameter {
  int64_t offset = 0, size = 0;  // in floats
  bool decays = false;           // weight decay is for matrices
};

class ParameterTable {
 public:
  // In the order given. REQUIRES: names differ; the sizes' sum fits 62 bits.
  explicit ParameterTable(std::vector<TensorShape> tensors);

  std::span<const TensorShape> tensors() const { return tensors_; }
  std::span<const Parameter> parameters() const { return parameters_; }  // [tensors]
  int64_t total() const { return total_; }                               // floats of the array
  const Parameter* Find(std::string_view name) const;                    // null: no such tensor
  size_t IndexOf(std::string_view name) const;                           // REQUIRES: there is such a tensor
  // The part of an array of this layout that is the tensor at `index`.
  template <typename T>
  std::span<T> Slice(std::span<T> values, size_t index) const {
    return values.subspan(parameters_[index].offset, parameters_[index].size);
  }

 private:
  std::vector<TensorShape> tensors_;
  std::vector<Parameter> parameters_;
  std::map<std::string, size_t, std::less<>> index_;
  int64_t total_ = 0;
};

// Where the groups of LayerTensors begin, in floats; kNoParameter: the model has none.
inline constexpr int64_t kNoParameter = -1;

struct LayerOffsets {
  int64_t attention_norm = kNoParameter;
  int64_t qkv = kNoParameter, qkv_bias = kNoParameter;
  int64_t q_norm = kNoParameter, k_norm = kNoParameter;
  int64_t output = kNoParameter, output_bias = kNoParameter;
  int64_t mlp_norm = kNoParameter;
  int64_t gate_up = kNoParameter, gate_up_bias = kNoParameter;
  int64_t down = kNoParameter, down_bias = kNoParameter;
};

// All parameters of a model, in the order in which the forward pass meets them, and where it finds them.
struct ModelParameters {
  explicit ModelParameters(const ModelConfig& config);

  ParameterTable table;
  int64_t embedding;
  std::vector<LayerOffsets> layers;
  int64_t final_norm;
  int64_t head;  // of a tied model: the embedding's
};

// Reads the safetensors of `model_dir`, which must hold the tensors of `table` and no others, in any dtype;
// nothing is rounded. Errors are those of Safetensors::Open and FindTensors, before `values` was touched.
// `progress` is called with the bytes read so far and in all. REQUIRES: values is [table.total()].
absl::Status LoadParameters(const std::string& model_dir, const ModelConfig& config,
                            const ParameterTable& table, std::span<float> values,
                            absl::FunctionRef<void(uint64_t done, uint64_t total)> progress);

// A tensor as fp32, exactly. REQUIRES: out is as large.
void WidenTensor(const Tensor& tensor, std::span<float> out);

// Matrices normal(0, 0.02), biases 0, norms 1: what transformers starts from. The same bits on every machine.
// Each tensor has its own stream of random numbers from (seed, its place in the table).
// REQUIRES: values is [table.total()].
void InitializeParameters(const ParameterTable& table, uint64_t seed, std::span<float> values);

}  // namespace clamor
