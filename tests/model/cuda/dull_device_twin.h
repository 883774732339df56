// What a device computes, said plainly: one text, products in double, and bf16 at the same points: weights,
// what goes into products, queries, keys and values. Products with int8 and int4 weights are the CPU's. For
// texts so short that attention has no splits.
#pragma once

#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/elementwise.h"
#include "kernels/quantized.h"
#include "kernels/rope.h"
#include "model/transformer.h"
#include "tests/kernels/reference.h"

namespace clamor {

class DullDeviceTwin {
 public:
  explicit DullDeviceTwin(const std::string& directory, WeightFormat format = WeightFormat::kBF16) {
    auto model = Transformer::Load(directory, format, 0, pool_, [](uint64_t, uint64_t) {});
    if (!model.ok()) {
      ADD_FAILURE() << model.status();
      std::abort();
    }
    model_ = *std::move(model);
  }

  // Of the last token.
  std::vector<float> Logits(const std::vector<int32_t>& text) {
    const ModelConfig& c = model_->config();
    const Weights& weights = model_->weights();
    const int n = static_cast<int>(text.size()), qkv_size = c.q_size() + 2 * c.kv_size();
    const kernels::RopeTable rope(c.rope.InverseFrequencies(c.head_dim), n);
    std::vector<std::vector<float>> hidden(n, std::vector<float>(c.hidden_size)), qkv(n);
    for (int t = 0; t < n; ++t) weights.embedding.UnpackRow(text[t], hidden[t].data());
    for (int l = 0; l < c.layers; ++l) {
      const LayerWeights& w = weights.layers[l];
      for (int t = 0; t < n; ++t) {
        qkv[t] = Product(Norm(hidden[t], w.attention_norm), w.qkv, w.qkv_bias);
        if (c.qk_norm) {
          kernels::RmsNormHeads(qkv[t].data(), 1, qkv_size, c.heads, c.head_dim, w.q_norm.data(),
                                c.rms_norm_eps, pool_);
          kernels::RmsNormHeads(qkv[t].data() + c.q_size(), 1, qkv_size, c.kv_heads, c.head_dim,
                                w.k_norm.data(), c.rms_norm_eps, pool_);
        }
        kernels::Rope(qkv[t].data(), 1, qkv_size, c.heads + c.kv_heads, &t, rope, pool_);
        Round(qkv[t]);
      }
      for (int t = 0; t < n; ++t) {
        Add(Product(Attention(qkv, t, c.window[l]), w.output, w.output_bias), hidden[t]);
        std::vector<float> gate_up = Product(Norm(hidden[t], w.mlp_norm), w.gate_up, w.gate_up_bias);
        std::vector<float> gated(c.intermediate_size);
        for (int i = 0; i < c.intermediate_size; ++i) {
          gated[i] = kernels::reference::Silu(gate_up[i]) * gate_up[c.intermediate_size + i];
        }
        Round(gated);
        Add(Product(gated, w.down, w.down_bias), hidden[t]);
      }
    }
    return Product(Norm(hidden[n - 1], weights.final_norm), weights.head_matrix(), {});
  }

 private:
  static void Round(std::vector<float>& v) {
    for (float& x : v) x = kernels::reference::RoundToBF16(x);
  }
  static void Add(const std::vector<float>& from, std::vector<float>& to) {
    for (size_t i = 0; i < to.size(); ++i) to[i] += from[i];
  }

  std::vector<float> Norm(const std::vector<float>& x, const std::vector<float>& weight) {
    std::vector<float> y(x.size());
    kernels::RmsNorm(x.data(), 1, static_cast<int64_t>(x.size()), weight.data(),
                     model_->config().rms_norm_eps, y.data(), pool_);
    Round(y);
    return y;
  }

  std::vector<float> Product(const std::vector<float>& x, const kernels::PackedMatrix& w,
                             const std::vector<float>& bias) {
    std::vector<float> y(w.n()), row(w.k());
    if (kernels::IsQuantized(w.stored())) {  // x is quantised too, as tests/kernels/quantized_test.cc says
      kernels::MatMul(x.data(), w.k(), 1, w, bias.empty() ? nullptr : bias.data(), y.data(), w.n(), pool_);
      return y;
    }
    for (int64_t i = 0; i < w.n(); ++i) {
      w.UnpackRow(i, row.data());
      double sum = 0;
      for (int64_t k = 0; k < w.k(); ++k) sum += double{x[k]} * row[k];
      y[i] = static_cast<float>(sum) + (bias.empty() ? 0.0f : bias[i]);
    }
    return y;
  }

  std::vector<float> Attention(const std::vector<std::vector<float>>& qkv, int t, int window) {
    const ModelConfig& c = model_->config();
    std::vector<float> out(c.q_size());
    for (int h = 0; h < c.heads; ++h) {
      const int at = h / (c.heads / c.kv_heads) * c.head_dim;
      const int first = window > 0 ? std::max(0, t - window + 1) : 0;
      std::vector<double> weights, sums(c.head_dim);
      double total = 0;
      for (int s = first; s <= t; ++s) {
        double score = 0;
        for (int d = 0; d < c.head_dim; ++d) {
          score += double{qkv[t][h * c.head_dim + d]} * qkv[s][c.q_size() + at + d];
        }
        weights.push_back(std::exp(score / std::sqrt(double{1} * c.head_dim)));
        total += weights.back();
      }
      for (int s = first; s <= t; ++s) {
        for (int d = 0; d < c.head_dim; ++d) {
          sums[d] += weights[s - first] * qkv[s][c.q_size() + c.kv_size() + at + d];
        }
      }
      for (int d = 0; d < c.head_dim; ++d) out[h * c.head_dim + d] = static_cast<float>(sums[d] / total);
    }
    Round(out);
    return out;
  }

  kernels::ThreadPool pool_{1};
  std::unique_ptr<Transformer> model_;
};

}  // namespace clamor
