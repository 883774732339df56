// The forward pass of all four families in double, as plain loops over tensors by their Hugging Face names:
// the twin of model/train/training_pass.h, whose gradients are checked by its differences.
#pragma once

#include <cmath>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "model/train/parameters.h"
#include "model/train/training_pass.h"

namespace clamor {

class DullModel {
 public:
  using Vector = std::vector<double>;

  DullModel(const ModelConfig& config, const ParameterTable& table, std::span<const float> values)
      : config_(config), frequencies_(config.rope.InverseFrequencies(config.head_dim)) {
    for (size_t i = 0; i < table.tensors().size(); ++i) {
      const std::span<const float> tensor = table.Slice(values, i);
      tensors[table.tensors()[i].name] = Vector(tensor.begin(), tensor.end());
    }
  }

  std::map<std::string, Vector, std::less<>> tensors;

  // The sum of the losses of all targets.
  double Loss(const TrainingBatch& batch) const {
    const std::string head = config_.tied_head ? "model.embed_tokens" : "lm_head";
    double loss = 0;
    for (size_t t = 0; t + 1 < batch.starts.size(); ++t) {
      const int64_t start = batch.starts[t];
      const std::vector<Vector> hidden =
          Hidden(std::span(batch.inputs).subspan(start, batch.starts[t + 1] - start));
      for (size_t i = 0; i < hidden.size(); ++i) {
        const int32_t target = batch.targets[start + i];
        if (target == TrainingBatch::kNoTarget) continue;
        const Vector logits = Linear(Norm(hidden[i], "model.norm.weight"), head);
        double sum = 0;
        for (const double logit : logits) sum += std::exp(logit - logits[target]);
        loss += std::log(sum);
      }
    }
    return loss;
  }

 private:
  // After all layers, for each token of a text.
  std::vector<Vector> Hidden(std::span<const int32_t> ids) const {
    const size_t size = ids.size();
    std::vector<Vector> h, q(size), k(size), v(size);
    const double* embedding = tensors.at("model.embed_tokens.weight").data();
    for (const int32_t id : ids) {
      h.emplace_back(embedding + id * config_.hidden_size, embedding + (id + 1) * config_.hidden_size);
    }
    for (int32_t layer = 0; layer < config_.layers; ++layer) {
      const std::string at = "model.layers." + std::to_string(layer) + ".", attention = at + "self_attn.";
      for (size_t i = 0; i < size; ++i) {
        const Vector x = Norm(h[i], at + "input_layernorm.weight");
        q[i] = Rotated(Linear(x, attention + "q_proj"), attention + "q_norm.weight", i);
        k[i] = Rotated(Linear(x, attention + "k_proj"), attention + "k_norm.weight", i);
        v[i] = Linear(x, attention + "v_proj");
      }
      for (size_t i = 0; i < size; ++i) {
        Add(Linear(Attend(q[i], k, v, i, config_.window[layer]), attention + "o_proj"), h[i]);
        const Vector x = Norm(h[i], at + "post_attention_layernorm.weight");
        Vector gate = Linear(x, at + "mlp.gate_proj");
        const Vector up = Linear(x, at + "mlp.up_proj");
        for (size_t j = 0; j < gate.size(); ++j) gate[j] *= up[j] / (1 + std::exp(-gate[j]));
        Add(Linear(gate, at + "mlp.down_proj"), h[i]);
      }
    }
    return h;
  }

  Vector Linear(const Vector& x, const std::string& name) const {
    const Vector& weight = tensors.at(name + ".weight");
    const auto bias = tensors.find(name + ".bias");
    Vector y(weight.size() / x.size());
    for (size_t i = 0; i < y.size(); ++i) {
      y[i] = bias == tensors.end() ? 0 : bias->second[i];
      for (size_t j = 0; j < x.size(); ++j) y[i] += weight[i * x.size() + j] * x[j];
    }
    return y;
  }

  Vector Norm(const Vector& x, const std::string& name) const {
    const Vector& weight = tensors.at(name);
    double square = 0;
    for (const double value : x) square += value * value;
    Vector y = x;
    for (size_t i = 0; i < x.size(); ++i) {
      y[i] *= weight[i] / std::sqrt(square / static_cast<double>(x.size()) + config_.rms_norm_eps);
    }
    return y;
  }

  // Each head of x, normed if the model has such a norm, turned to its position.
  Vector Rotated(const Vector& x, const std::string& norm, size_t position) const {
    const auto half = static_cast<size_t>(config_.head_dim) / 2;
    Vector y;
    for (size_t head = 0; head < x.size(); head += 2 * half) {
      Vector one(x.begin() + head, x.begin() + head + 2 * half);
      if (tensors.contains(norm)) one = Norm(one, norm);
      for (size_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(position) * frequencies_[i], a = one[i], b = one[i + half];
        one[i] = a * std::cos(angle) - b * std::sin(angle);
        one[i + half] = b * std::cos(angle) + a * std::sin(angle);
      }
      y.insert(y.end(), one.begin(), one.end());
    }
    return y;
  }

  // The values that query `i` of a text sees, weighted.
  Vector Attend(const Vector& q, const std::vector<Vector>& k, const std::vector<Vector>& v, size_t i,
                int32_t window) const {
    const auto dim = static_cast<size_t>(config_.head_dim);
    const size_t first = window > 0 && i + 1 > static_cast<size_t>(window) ? i + 1 - window : 0;
    Vector out(q.size());
    for (int32_t head = 0; head < config_.heads; ++head) {
      const size_t at = head * dim, shared = head / (config_.heads / config_.kv_heads) * dim;
      double sum = 0;
      for (size_t j = first; j <= i; ++j) {
        double score = 0;
        for (size_t d = 0; d < dim; ++d) score += q[at + d] * k[j][shared + d];
        const double weight = std::exp(score / std::sqrt(static_cast<double>(dim)));
        sum += weight;
        for (size_t d = 0; d < dim; ++d) out[at + d] += weight * v[j][shared + d];
      }
      for (size_t d = 0; d < dim; ++d) out[at + d] /= sum;
    }
    return out;
  }

  static void Add(const Vector& x, Vector& to) {
    for (size_t i = 0; i < x.size(); ++i) to[i] += x[i];
  }

  const ModelConfig config_;
  const std::vector<double> frequencies_;
};

}  // namespace clamor
