#include "model/train/trainable_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/elementwise.h"

namespace clamor {
namespace {

struct Product {
  const char* name;
  int64_t n, k;
};

std::array<Product, 4> Products(const ModelConfig& c) {
  return {{{"qkv", c.q_size() + 2 * c.kv_size(), c.hidden_size},
           {"output", c.hidden_size, c.q_size()},
           {"gate_up", 2 * int64_t{c.intermediate_size}, c.hidden_size},
           {"down", c.hidden_size, c.intermediate_size}}};
}

std::vector<TensorShape> AllAdapters(const ModelConfig& config, int64_t rank) {
  std::vector<TensorShape> tensors;
  for (int32_t i = 0; i < config.layers; ++i) {
    for (const Product& p : Products(config)) {
      const std::string name = absl::StrCat("layers.", i, ".", p.name);
      tensors.push_back({name + ".lora_a", {rank, p.k}});
      tensors.push_back({name + ".lora_b", {p.n, rank}});
    }
  }
  return tensors;
}

// Where a_b[0] and a_b[1] of a layer's product stand in the table.
constexpr size_t IndexOf(int layer, int product) { return static_cast<size_t>(layer * 4 + product) * 2; }

const float* OrNull(const std::vector<float>& v) { return v.empty() ? nullptr : v.data(); }

}  // namespace

TrainableModel::TrainableModel(const ModelConfig& config) : TrainableModel(config, ModelParameters(config)) {}

TrainableModel::TrainableModel(const ModelConfig& config, ModelParameters parameters)
    : config_(config),
      table_(std::move(parameters.table)),
      values_(table_.total()),
      gradients_(table_.total()) {
  const auto at = [this](int64_t offset) {
    return offset == kNoParameter ? Trained() : Trained{values_.data() + offset, gradients_.data() + offset};
  };
  const int64_t hidden = config.hidden_size, inner = config.intermediate_size;
  embedding = at(parameters.embedding);
  final_norm = at(parameters.final_norm);
  head = Linear(config.vocab_size, hidden, at(parameters.head), {});
  for (const LayerOffsets& o : parameters.layers) {
    layers.push_back({
        .attention_norm = at(o.attention_norm),
        .qkv = Linear(config.q_size() + 2 * config.kv_size(), hidden, at(o.qkv), at(o.qkv_bias)),
        .q_norm = at(o.q_norm),
        .k_norm = at(o.k_norm),
        .output = Linear(hidden, config.q_size(), at(o.output), at(o.output_bias)),
        .mlp_norm = at(o.mlp_norm),
        .gate_up = Linear(2 * inner, hidden, at(o.gate_up), at(o.gate_up_bias)),
        .down = Linear(hidden, inner, at(o.down), at(o.down_bias)),
    });
  }
}

TrainableModel::TrainableModel(const ModelConfig& config, const Weights* base, LowRankOptions adapters,
                               uint64_t seed, kernels::ThreadPool& pool)
    : config_(config),
      base_(base),
      table_(AllAdapters(config, adapters.rank)),
      values_(table_.total()),
      gradients_(table_.total()) {
  InitializeParameters(table_, seed, values_);
  final_norm = {.value = base->final_norm.data()};
  head = Linear(&base->head_matrix(), nullptr, {}, pool);
  for (int32_t i = 0; i < config.layers; ++i) {
    const LayerWeights& w = base->layers[i];
    const auto linear = [&](int product, const kernels::PackedMatrix& weights,
                            const std::vector<float>& bias) {
      const auto at = [this](size_t index) {
        const int64_t offset = table_.parameters()[index].offset;
        return Trained{values_.data() + offset, gradients_.data() + offset};
      };
      const size_t a = IndexOf(i, product), b = a + 1;
      std::ranges::fill(table_.Slice(std::span(values_), b), 0.0f);
      return Linear(&weights, OrNull(bias),
                    {.rank = adapters.rank,
                     .scale = adapters.alpha / static_cast<float>(adapters.rank),
                     .a = at(a),
                     .b = at(b)},
                    pool);
    };
    layers.push_back({
        .attention_norm = {.value = w.attention_norm.data()},
        .qkv = linear(0, w.qkv, w.qkv_bias),
        .q_norm = {.value = OrNull(w.q_norm)},
        .k_norm = {.value = OrNull(w.k_norm)},
        .output = linear(1, w.output, w.output_bias),
        .mlp_norm = {.value = w.mlp_norm.data()},
        .gate_up = linear(2, w.gate_up, w.gate_up_bias),
        .down = linear(3, w.down, w.down_bias),
    });
  }
}

void TrainableModel::Pack(kernels::ThreadPool& pool) {
  for (TrainableLayer& layer : layers) {
    for (Linear* linear : {&layer.qkv, &layer.output, &layer.gate_up, &layer.down}) linear->Pack(pool);
  }
  head.Pack(pool);
}

void TrainableModel::Embed(std::span<const int32_t> ids, float* out) const {
  const int64_t hidden = config_.hidden_size;
  for (size_t i = 0; i < ids.size(); ++i, out += hidden) {
    if (base_ != nullptr) {
      base_->embedding.UnpackRow(ids[i], out);
    } else {
      std::copy_n(embedding.value + ids[i] * hidden, hidden, out);
    }
  }
}

std::vector<float> AdapterUpdate(const TrainableModel& model, LowRankOptions adapters, int layer, int product,
                                 kernels::ThreadPool& pool) {
  const Product p = Products(model.config())[product];
  const size_t index = IndexOf(layer, product);
  // (b * a)[n, k] = MatMul of b [n, rank] with a^T packed.
  kernels::PackedMatrix a(p.k, adapters.rank, kernels::Storage::kF32);
  a.PackTransposed(0, adapters.rank, model.table().Slice(model.values(), index).data(), kernels::DType::kF32,
                   pool);
  std::vector<float> update(p.n * p.k);
  kernels::MatMul(model.table().Slice(model.values(), index + 1).data(), adapters.rank, p.n, a, nullptr,
                  update.data(), p.k, pool);
  kernels::Scale(update.data(), adapters.alpha / static_cast<float>(adapters.rank), p.n * p.k, pool);
  return update;
}

}  // namespace clamor
