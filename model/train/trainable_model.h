// A model that can be trained: either all of its parameters, or low-rank adapters beside frozen weights. Both
// are one flat array of values and one of gradients to whoever optimizes them.
//
// Tested by tests/model/train/training_pass_test.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/thread_pool.h"
#include "model/config.h"
#include "model/train/linear.h"
#include "model/train/parameters.h"
#include "model/weights.h"

namespace clamor {

struct TrainableLayer {
  Trained attention_norm;  // [hidden]
  Linear qkv;              // [q_size + 2 * kv_size, hidden]
  Trained q_norm, k_norm;  // [head_dim]
  Linear output;           // [hidden, q_size]
  Trained mlp_norm;        // [hidden]
  Linear gate_up;          // [2 * intermediate, hidden]
  Linear down;             // [hidden, intermediate]
};

struct LowRankOptions {
  int64_t rank = 0;  // 0: no adapters, all parameters are trained
  float alpha = 0;   // an adapter counts alpha / rank times
};

class TrainableModel {
 public:
  TrainableModel(const TrainableModel&) = delete;  // its parts point into values() and gradients()
  TrainableModel& operator=(const TrainableModel&) = delete;
  // All parameters. Their values are zero until the caller fills values() and calls Pack.
  explicit TrainableModel(const ModelConfig& config);
  // Adapters for the products of every layer, drawn from `seed` so that they change nothing at first. `base`
  // must outlive this.
  TrainableModel(const ModelConfig& config, const Weights* base, LowRankOptions adapters, uint64_t seed,
                 kernels::ThreadPool& pool);

  const ModelConfig& config() const { return config_; }
  const ParameterTable& table() const { return table_; }
  std::span<float> values() { return values_; }  // [table().total()]
  std::span<const float> values() const { return values_; }
  std::span<float> gradients() { return gradients_; }  // the same

  // To be called whenever the values have changed.
  void Pack(kernels::ThreadPool& pool);

  // The embedding's rows of `ids`. out: [ids, hidden].
  void Embed(std::span<const int32_t> ids, float* out) const;

  Trained embedding;  // [vocab, hidden]; the value is null if frozen
  std::vector<TrainableLayer> layers;
  Trained final_norm;  // [hidden]
  Linear head;         // [vocab, hidden]

 private:
  TrainableModel(const ModelConfig& config, ModelParameters parameters);

  ModelConfig config_;
  const Weights* base_ = nullptr;
  ParameterTable table_;
  std::vector<float> values_, gradients_;
};

// The product of one layer's adapter, scale * b * a, [n, k] row-major: what to add to the weights it stands
// beside. `product`: 0 qkv, 1 output, 2 gate_up, 3 down.
std::vector<float> AdapterUpdate(const TrainableModel& model, LowRankOptions adapters, int layer, int product,
                                 kernels::ThreadPool& pool);

}  // namespace clamor
