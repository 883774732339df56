// What a rank's steps take of its device beside the weights: activations, and the cache.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/kv_pages.h"
#include "kernels/cuda/quantize.h"
#include "model/config.h"
#include "model/cuda/device_weights.h"
#include "model/model.h"

namespace clamor {

struct RankSizes {
  const ModelConfig* config;
  ShardRange range;
  bool quantised;         // some of the weights
  int64_t slots;          // of the cache
  int32_t max_positions;  // of a sequence
  PassLimits limits;

  // Of a shard.
  int32_t heads() const { return config->heads / range.count; }
  int32_t kv_heads() const { return config->kv_heads / range.count; }
  int64_t q() const { return config->q_size() / range.count; }
  int64_t kv() const { return config->kv_size() / range.count; }
  int64_t qkv() const { return q() + 2 * kv(); }
  int64_t mlp() const { return config->intermediate_size / range.count; }
  int64_t vocab() const { return DeviceWeights::PaddedVocab(config->vocab_size, range.count) / range.count; }
  int64_t rows() const;         // padded, of the largest step
  int64_t cache_pages() const;  // surplus rows of a step write behind the slots of the cache
};

// Pointers from `base` on. Rows are padded to blocks of kRowBlock. What is of one shard serves all that the
// rank holds, one after the other.
struct RankMemory {
  RankMemory() = default;
  RankMemory(const RankSizes& sizes, std::byte* base);

  float* hidden = nullptr;                   // [rows, hidden]
  uint16_t* normed = nullptr;                // [rows, hidden]
  float* qkv = nullptr;                      // [rows, qkv of a shard]
  uint16_t* q = nullptr;                     // [rows, q of a shard]
  uint16_t* attention = nullptr;             // likewise
  float* gate_up = nullptr;                  // [rows, 2 mlp of a shard]
  uint16_t* gated = nullptr;                 // [rows, mlp of a shard]
  uint16_t* selected = nullptr;              // [rows, hidden]
  kernels::cuda::QuantizedRows quantised{};  // of the widest product
  float* workspace = nullptr;                // of attention
  // What shards give each other. Attention's and the feed-forward part's lie apart, as Exchange wants it.
  float* parts[2] = {};                      // [shards of the model][rows, hidden]
  float* part_logits = nullptr;              // [shards of the model][rows, vocab of a shard]
  float* logits = nullptr;                   // [rows, vocab], the same as part_logits if there is one shard
  std::byte* kv = nullptr;                   // [layers][held][2][pages]
  kernels::cuda::KvPages* layers = nullptr;  // [layers][held], for moves
  size_t bytes = 0;
};

}  // namespace clamor
