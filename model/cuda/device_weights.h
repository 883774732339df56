// The parameters of a model, or a part of them, in a device's memory: matrices in bf16, int8 or int4, vectors
// in fp32.
//
// Tested by tests/model/cuda/device_model_test.cc and device_options_test.cc.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/quantize.h"
#include "model/config.h"
#include "model/weights.h"

namespace clamor {

// A model is cut into `count` shards: of heads, of what lies between gate and down, of the vocabulary. A
// device holds `held` of them, from `first` on. Sums over shards are in their order, and each shard's
// products are the same wherever it is, so that bits depend on `count` alone.
struct ShardRange {
  int32_t count = 1, first = 0, held = 1;
};

// [n, k], row-major.
struct DeviceMatrix {
  const uint16_t* bf16 = nullptr;              // either this one,
  kernels::cuda::QuantizedMatrix quantized{};  // or this one
  int64_t n = 0, k = 0;
};

// One shard of a layer. Shapes as in LayerWeights, with heads, key heads and `intermediate` of a shard.
struct DeviceShard {
  DeviceMatrix qkv;
  const float* qkv_bias =
      nullptr;  // null if the model has none, like all vectors but the norms before products
  DeviceMatrix output;
  DeviceMatrix gate_up;
  const float* gate_up_bias = nullptr;
  DeviceMatrix down;
};

struct DeviceLayer {
  const float* attention_norm = nullptr;
  const float* q_norm = nullptr;
  const float* k_norm = nullptr;
  const float* output_bias = nullptr;
  const float* mlp_norm = nullptr;
  const float* down_bias = nullptr;
  std::vector<DeviceShard> shards;  // [held]
};

struct DeviceWeights {
  ShardRange range;
  DeviceMatrix embedding;  // [PaddedVocab, hidden], zeros below the vocabulary
  std::vector<DeviceLayer> layers;
  const float* final_norm = nullptr;  // [hidden]
  std::vector<DeviceMatrix> heads;    // [held]: [PaddedVocab / count, hidden]; rows of the embedding if tied
  size_t bytes = 0;
  kernels::cuda::DeviceBuffer memory;

  // Rows of the head: products want multiples of 8 of each shard.
  static int64_t PaddedVocab(int32_t vocab_size, int32_t shards) {
    return (int64_t{vocab_size} + 8 * shards - 1) / (8 * shards) * (8 * shards);
  }

  // Streams the safetensors of `model_dir` through pinned memory. kBF16 rounds what is stored otherwise; kI8
  // and kI4 quantise on the device, to the numbers of Weights::Load and with the same matrices in int8. Done
  // when it returns. Errors as Safetensors::Open and FindTensors; INVALID_ARGUMENT names a tensor with a
  // value that int8 and int4 cannot hold; RESOURCE_EXHAUSTED if the device has less memory than the weights
  // take, with both numbers.
  // REQUIRES: `format` is one of those three; the model's sizes divide by range.count as DeviceModel checks.
  static absl::StatusOr<DeviceWeights> Load(const std::string& model_dir, const ModelConfig& config,
                                            WeightFormat format, const ShardRange& range,
                                            kernels::cuda::Stream stream, Weights::Progress progress);
};

}  // namespace clamor
