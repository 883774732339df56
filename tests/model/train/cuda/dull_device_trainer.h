// What a device does in a step of training, said plainly: one text after the other, sums in double, and bf16
// at the same points. For texts of one tile of attention.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "model/train/parameters.h"
#include "model/train/training_backend.h"
#include "tests/kernels/reference.h"

namespace clamor {

class DullDeviceTrainer {
 public:
  using Vector = std::vector<double>;
  using Matrix = std::vector<Vector>;  // rows

  DullDeviceTrainer(const ModelConfig& config, const ModelParameters& parameters,
                    std::span<const float> start)
      : values(start.begin(), start.end()),
        gradients(start.size()),
        first_moments(start.size()),
        second_moments(start.size()),
        c_(config),
        at_(parameters),
        frequencies_(config.rope.InverseFrequencies(config.head_dim)) {}

  std::vector<float> values;
  Vector gradients;  // of the last step, before clipping
  std::vector<float> first_moments, second_moments;

  TrainingBackend::Sums Step(const TrainingBatch& batch, double scale, const OptimizerStep& step) {
    TrainingBackend::Sums sums;
    std::fill(gradients.begin(), gradients.end(), 0.0);
    for (size_t t = 0; t + 1 < batch.starts.size(); ++t) {
      const int64_t begin = batch.starts[t], size = batch.starts[t + 1] - begin;
      sums.loss += Learn(std::span(batch.inputs).subspan(begin, size),
                         std::span(batch.targets).subspan(begin, size), static_cast<float>(scale));
    }
    double squares = 0;
    for (const double g : gradients) squares += g * g;
    sums.gradient_norm = std::sqrt(squares);
    const double clip =
        step.clip_norm > 0 ? std::min(1.0, step.clip_norm / (sums.gradient_norm + 1e-6)) : 1.0;
    for (const Parameter& p : at_.table.parameters()) {
      const float keep = 1.0f - step.learning_rate * (p.decays ? step.weight_decay : 0.0f);
      for (int64_t i = p.offset; i < p.offset + p.size; ++i) {
        const auto g = static_cast<float>(gradients[i] * clip);
        float &m = first_moments[i], &v = second_moments[i];
        m = m + (1.0f - step.beta1) * (g - m);
        v = step.beta2 * v + (1.0f - step.beta2) * g * g;
        values[i] = values[i] * keep - step.learning_rate / step.correction1 *
                                           (m / (std::sqrt(v) / step.correction2_root + step.epsilon));
      }
    }
    return sums;
  }

 private:
  struct Layer {
    Matrix input, normed, raw, q, k, v, out, middle, mlp_normed, gate_up, gated;
    std::vector<Matrix> scores;  // by head
    Matrix log_sums;             // by head
  };

  static double Round(double v) { return kernels::reference::RoundToBF16(static_cast<float>(v)); }
  static Matrix Rounded(Matrix m) {
    for (Vector& row : m) {
      for (double& v : row) v = Round(v);
    }
    return m;
  }
  double Weight(int64_t at) const { return Round(values[at]); }

  Matrix Product(const Matrix& x, int64_t weight, int64_t bias, size_t n) const {
    Matrix y(x.size(), Vector(n));
    for (size_t r = 0; r < x.size(); ++r) {
      const size_t k = x[r].size();
      for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j < k; ++j) y[r][i] += x[r][j] * Weight(weight + i * k + j);
        if (bias != kNoParameter) y[r][i] += values[bias + i];
      }
    }
    return y;
  }
  Matrix ProductBackward(const Matrix& x, const Matrix& dy, int64_t weight, int64_t bias) {
    Matrix dx;
    for (size_t r = 0; r < x.size(); ++r) {
      const size_t k = x[r].size(), n = dy[r].size();
      dx.emplace_back(k);
      for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j < k; ++j) {
          dx[r][j] += dy[r][i] * Weight(weight + i * k + j);
          gradients[weight + i * k + j] += dy[r][i] * x[r][j];
        }
        if (bias != kNoParameter) gradients[bias + i] += dy[r][i];
      }
    }
    return dx;
  }

  double Scale(const double* x, size_t n) const {
    double squares = 0;
    for (size_t i = 0; i < n; ++i) squares += x[i] * x[i];
    return 1 / std::sqrt(squares / static_cast<double>(n) + c_.rms_norm_eps);
  }
  Vector Norm(const double* x, size_t n, int64_t weight) const {
    Vector y(n);
    for (size_t i = 0; i < n; ++i) y[i] = x[i] * Scale(x, n) * values[weight + i];
    return y;
  }
  Matrix Norm(const Matrix& x, int64_t weight) const {
    Matrix y;
    for (const Vector& row : x) y.push_back(Norm(row.data(), row.size(), weight));
    return Rounded(y);
  }
  Vector NormBackward(const double* x, const double* dy, size_t n, int64_t weight) {
    const double s = Scale(x, n);
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += x[i] * values[weight + i] * dy[i];
    Vector dx(n);
    for (size_t i = 0; i < n; ++i) {
      dx[i] = s * values[weight + i] * dy[i] - sum * s * s * s / static_cast<double>(n) * x[i];
      gradients[weight + i] += dy[i] * x[i] * s;
    }
    return dx;
  }
  void NormBackward(const Matrix& x, const Matrix& dy, int64_t weight, Matrix& d) {
    for (size_t r = 0; r < x.size(); ++r) {
      const Vector dx = NormBackward(x[r].data(), dy[r].data(), x[r].size(), weight);
      for (size_t i = 0; i < dx.size(); ++i) d[r][i] += dx[i];
    }
  }

  void Rotate(double* head, size_t position, double direction) const {
    const size_t half = frequencies_.size();
    for (size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(position) * frequencies_[i], a = head[i], b = head[half + i];
      const double cos = std::cos(angle), sin = direction * std::sin(angle);
      head[i] = a * cos - b * sin;
      head[half + i] = b * cos + a * sin;
    }
  }
  size_t FirstKey(size_t query, int32_t window) const {
    return window > 0 && query + 1 > static_cast<size_t>(window) ? query + 1 - window : 0;
  }

  void Attend(Layer& l, const LayerOffsets& w, int32_t window) const {
    const size_t dim = c_.head_dim, n = l.raw.size();
    for (size_t r = 0; r < n; ++r) {
      const double* const raw = l.raw[r].data();
      const auto heads = [&](size_t first, size_t count, int64_t norm) {
        Vector all;
        for (size_t h = first; h < first + count; ++h) {
          Vector head(raw + h * dim, raw + (h + 1) * dim);
          if (c_.qk_norm) head = Norm(head.data(), dim, norm);
          Rotate(head.data(), r, 1);
          all.insert(all.end(), head.begin(), head.end());
        }
        return all;
      };
      l.q.push_back(heads(0, c_.heads, w.q_norm));
      l.k.push_back(heads(c_.heads, c_.kv_heads, w.k_norm));
      l.v.emplace_back(raw + (c_.heads + c_.kv_heads) * dim, raw + (c_.heads + 2 * c_.kv_heads) * dim);
    }
    l.q = Rounded(l.q);
    l.k = Rounded(l.k);
    l.v = Rounded(l.v);
    l.out.assign(n, Vector(c_.heads * dim));
    for (int h = 0; h < c_.heads; ++h) {
      const size_t kv = h / (c_.heads / c_.kv_heads) * dim;
      Matrix& scores = l.scores.emplace_back(n, Vector(n));
      Vector& log_sums = l.log_sums.emplace_back(n);
      for (size_t r = 0; r < n; ++r) {
        double maximum = -INFINITY, total = 0;
        const size_t first = FirstKey(r, window);
        for (size_t j = first; j <= r; ++j) {
          for (size_t d = 0; d < dim; ++d) scores[r][j] += l.q[r][h * dim + d] * l.k[j][kv + d];
          scores[r][j] *= AttentionScale();
          maximum = std::max(maximum, scores[r][j]);
        }
        for (size_t j = first; j <= r; ++j) {
          const double weight = Round(std::exp(scores[r][j] - maximum));
          total += weight;
          for (size_t d = 0; d < dim; ++d) l.out[r][h * dim + d] += weight * l.v[j][kv + d];
        }
        for (size_t d = 0; d < dim; ++d) l.out[r][h * dim + d] /= total;
        log_sums[r] = maximum + std::log(total);
      }
    }
    l.out = Rounded(l.out);
  }
  double AttentionScale() const { return 1 / std::sqrt(static_cast<double>(c_.head_dim)); }

  // d_out to the gradient of the product's output.
  Matrix AttendBackward(const Layer& l, const LayerOffsets& w, int32_t window, const Matrix& d_out) {
    const size_t dim = c_.head_dim, n = l.raw.size();
    const size_t keys = c_.heads * dim, vals = keys + c_.kv_heads * dim;
    Matrix d(n, Vector(l.raw[0].size()));
    for (int h = 0; h < c_.heads; ++h) {
      const size_t kv = h / (c_.heads / c_.kv_heads) * dim;
      for (size_t r = 0; r < n; ++r) {
        double product = 0;
        for (size_t i = h * dim; i < (h + 1) * dim; ++i) product += d_out[r][i] * l.out[r][i];
        for (size_t j = FirstKey(r, window); j <= r; ++j) {
          const double p = std::exp(l.scores[h][r][j] - l.log_sums[h][r]);
          double dp = 0;
          for (size_t i = 0; i < dim; ++i) dp += d_out[r][h * dim + i] * l.v[j][kv + i];
          const double ds = Round(p * (dp - product) * AttentionScale());
          for (size_t i = 0; i < dim; ++i) {
            d[r][h * dim + i] += ds * l.k[j][kv + i];
            d[j][keys + kv + i] += ds * l.q[r][h * dim + i];
            d[j][vals + kv + i] += Round(p) * d_out[r][h * dim + i];
          }
        }
      }
    }
    for (size_t r = 0; r < n; ++r) {
      for (size_t h = 0; h < static_cast<size_t>(c_.heads + c_.kv_heads); ++h) {
        double* const head = &d[r][h * dim];
        Rotate(head, r, -1);
        if (!c_.qk_norm) continue;
        const bool is_q = h < static_cast<size_t>(c_.heads);
        const Vector dx = NormBackward(&l.raw[r][h * dim], head, dim, is_q ? w.q_norm : w.k_norm);
        std::copy(dx.begin(), dx.end(), head);
      }
    }
    return Rounded(d);
  }

  static Matrix Sum(Matrix a, const Matrix& b) {
    for (size_t r = 0; r < a.size(); ++r) {
      for (size_t i = 0; i < a[r].size(); ++i) a[r][i] += b[r][i];
    }
    return a;
  }

  // Of one text; adds to the gradients and returns the losses.
  double Learn(std::span<const int32_t> inputs, std::span<const int32_t> targets, double scale) {
    const size_t hidden = c_.hidden_size, inner = c_.intermediate_size, vocab = c_.vocab_size;
    Matrix x;
    for (const int32_t token : inputs) {
      Vector& row = x.emplace_back();
      for (size_t i = 0; i < hidden; ++i) row.push_back(Weight(at_.embedding + token * hidden + i));
    }
    std::vector<Layer> layers(at_.layers.size());
    for (size_t i = 0; i < layers.size(); ++i) {
      const LayerOffsets& w = at_.layers[i];
      Layer& l = layers[i];
      l.input = x;
      l.normed = Norm(x, w.attention_norm);
      l.raw = Product(l.normed, w.qkv, w.qkv_bias, c_.q_size() + 2 * c_.kv_size());
      Attend(l, w, c_.window[i]);
      l.middle = Sum(x, Product(l.out, w.output, w.output_bias, hidden));
      l.mlp_normed = Norm(l.middle, w.mlp_norm);
      l.gate_up = Product(l.mlp_normed, w.gate_up, w.gate_up_bias, 2 * inner);
      for (const Vector& row : l.gate_up) {
        Vector& gated = l.gated.emplace_back();
        for (size_t j = 0; j < inner; ++j) gated.push_back(row[j] / (1 + std::exp(-row[j])) * row[inner + j]);
      }
      l.gated = Rounded(l.gated);
      x = Sum(l.middle, Product(l.gated, w.down, w.down_bias, hidden));
    }

    double loss = 0;
    Matrix d(x.size(), Vector(hidden));
    for (size_t r = 0; r < x.size(); ++r) {
      if (targets[r] == TrainingBatch::kNoTarget) continue;
      const Matrix normed = Norm(Matrix{x[r]}, at_.final_norm);
      Matrix logits = Product(normed, at_.head, kNoParameter, vocab);
      const double maximum = *std::max_element(logits[0].begin(), logits[0].end());
      double total = 0;
      for (const double v : logits[0]) total += std::exp(v - maximum);
      loss += maximum + std::log(total) - logits[0][targets[r]];
      for (size_t i = 0; i < vocab; ++i) {
        const double p = std::exp(logits[0][i] - maximum) / total;
        logits[0][i] = scale * (p - (static_cast<int32_t>(i) == targets[r]));
      }
      Matrix own = {d[r]};
      NormBackward({x[r]}, ProductBackward(normed, Rounded(logits), at_.head, kNoParameter), at_.final_norm,
                   own);
      d[r] = own[0];
    }
    for (size_t i = layers.size(); i-- > 0;) {
      const LayerOffsets& w = at_.layers[i];
      const Layer& l = layers[i];
      const Matrix d_gated = ProductBackward(l.gated, Rounded(d), w.down, w.down_bias);
      Matrix d_gate_up = l.gate_up;
      for (size_t r = 0; r < d_gate_up.size(); ++r) {
        for (size_t j = 0; j < inner; ++j) {
          const double g = l.gate_up[r][j], u = l.gate_up[r][inner + j], q = 1 / (1 + std::exp(-g));
          d_gate_up[r][j] = d_gated[r][j] * u * q * (1 + g * (1 - q));
          d_gate_up[r][inner + j] = d_gated[r][j] * g * q;
        }
      }
      NormBackward(l.middle, ProductBackward(l.mlp_normed, Rounded(d_gate_up), w.gate_up, w.gate_up_bias),
                   w.mlp_norm, d);
      const Matrix d_out = Rounded(ProductBackward(l.out, Rounded(d), w.output, w.output_bias));
      const Matrix d_raw = AttendBackward(l, w, c_.window[i], d_out);
      NormBackward(l.input, ProductBackward(l.normed, d_raw, w.qkv, w.qkv_bias), w.attention_norm, d);
    }
    for (size_t r = 0; r < x.size(); ++r) {
      for (size_t i = 0; i < hidden; ++i) gradients[at_.embedding + inputs[r] * hidden + i] += d[r][i];
    }
    return loss;
  }

  const ModelConfig c_;
  const ModelParameters& at_;
  const std::vector<double> frequencies_;
};

}  // namespace clamor
