// The parameters of a model in a device's memory: matrices in bf16, vectors in fp32.
//
// Tested by tests/model/cuda/device_model_test.cc.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cuda/device_memory.h"
#include "model/config.h"
#include "model/weights.h"

namespace clamor {

// Pointers into DeviceWeights::memory, row-major, each at a multiple of 256 bytes. Shapes as in LayerWeights.
struct DeviceLayer {
  const float* attention_norm = nullptr;
  const uint16_t* qkv = nullptr;
  const float* qkv_bias = nullptr;  // null if the model has none, like the other biases
  const float* q_norm = nullptr;    // likewise
  const float* k_norm = nullptr;
  const uint16_t* output = nullptr;
  const float* output_bias = nullptr;
  const float* mlp_norm = nullptr;
  const uint16_t* gate_up = nullptr;
  const float* gate_up_bias = nullptr;
  const uint16_t* down = nullptr;
  const float* down_bias = nullptr;
};

struct DeviceWeights {
  const uint16_t* embedding = nullptr;  // [vocab, hidden]
  std::vector<DeviceLayer> layers;
  const float* final_norm = nullptr;  // [hidden]
  const uint16_t* head = nullptr;  // [PaddedVocab, hidden], zeros below the vocabulary; the embedding if tied
  size_t bytes = 0;
  kernels::cuda::DeviceBuffer memory;

  // Rows of the head: products want multiples of 8.
  static int64_t PaddedVocab(int32_t vocab_size) { return (int64_t{vocab_size} + 7) / 8 * 8; }

  // Streams the safetensors of `model_dir` through pinned memory, rounding to bf16 what is stored otherwise.
  // Done when it returns. Errors as Safetensors::Open and FindTensors; RESOURCE_EXHAUSTED if the device has
  // less memory than the weights take, with both numbers.
  static absl::StatusOr<DeviceWeights> Load(const std::string& model_dir, const ModelConfig& config,
                                            kernels::cuda::Stream stream, Weights::Progress progress);
};

}  // namespace clamor
