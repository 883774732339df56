// The tensors that a model is made of: their Hugging Face names and shapes, and where a model directory holds
// them.
//
// Tested by tests/model/checkpoint/weights_test.cc and tests/model/train/parameters_test.cc.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/config.h"
#include "model/safetensors.h"

namespace clamor {

struct TensorShape {
  std::string name;
  std::vector<int64_t> shape;

  bool operator==(const TensorShape&) const = default;
};

// Tensors that the forward pass takes as one, in this order one below the other; empty if the model has none.
using TensorGroup = std::vector<TensorShape>;

struct LayerTensors {
  TensorGroup attention_norm;
  TensorGroup qkv, qkv_bias;  // q, k, v
  TensorGroup q_norm, k_norm;
  TensorGroup output, output_bias;
  TensorGroup mlp_norm;
  TensorGroup gate_up, gate_up_bias;  // gate, up
  TensorGroup down, down_bias;
};

struct ModelTensors {
  TensorGroup embedding;
  std::vector<LayerTensors> layers;
  TensorGroup final_norm;
  TensorGroup head;  // empty if tied
};

ModelTensors TensorsOf(const ModelConfig& config);

// The `wanted` tensors of the directory, in that order; found before anything is allocated, so that what a
// config claims costs nothing until the files bear it out. Errors name the tensor, the file and both shapes.
// Tensors that nobody wants are an error too (INVALID_ARGUMENT, lists up to five), except `lm_head.weight` of
// a tied model and rotary caches (`rotary_emb.inv_freq`).
absl::StatusOr<std::vector<Tensor>> FindTensors(const Safetensors& files, const std::string& model_dir,
                                                std::span<const TensorShape> wanted, bool tied_head);

}  // namespace clamor
