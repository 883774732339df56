#include "model/train/training_pass.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/causal_attention.h"
#include "kernels/cross_entropy.h"
#include "kernels/elementwise.h"
#include "kernels/elementwise_backward.h"
#include "kernels/top_k.h"
#include "model/activations.h"

namespace clamor {
namespace {

// Logits held at once, in floats: they are the widest activation by far and never exist for a whole batch.
constexpr int64_t kMaxLogits = 8 << 20;

int64_t LogitRows(const ModelConfig& c) { return std::max<int64_t>(1, kMaxLogits / c.vocab_size); }

kernels::CausalShape AttentionShape(const ModelConfig& c, size_t layer) {
  return {.heads = c.heads,
          .kv_heads = c.kv_heads,
          .head_dim = c.head_dim,
          .scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim)),
          .window = c.window[layer]};
}

}  // namespace

int64_t TrainingBatch::CountTargets() const {
  return static_cast<int64_t>(targets.size()) - std::count(targets.begin(), targets.end(), kNoTarget);
}

TrainingPass::TrainingPass(const ModelConfig& config, int32_t max_length, bool recompute)
    : config_(config),
      recompute_(recompute),
      rope_(config.rope.InverseFrequencies(config.head_dim), max_length),
      inputs_(config.layers + 1),
      kept_(recompute ? 1 : config.layers) {}

int64_t TrainingPass::Bytes(const ModelConfig& c, int64_t rows, int64_t max_length, bool recompute) {
  const int64_t qkv = c.q_size() + 2 * c.kv_size();
  const int64_t kept = qkv + c.q_size() + 3 * c.hidden_size + 3 * c.intermediate_size +
                       (c.qk_norm ? c.q_size() + c.kv_size() : 0);
  const int64_t inputs = int64_t{c.layers + 1} * c.hidden_size;
  const int64_t packed = std::max<int64_t>(qkv, 2 * int64_t{c.intermediate_size});
  const int64_t scratch =
      7 * int64_t{c.hidden_size} + 2 * int64_t{c.intermediate_size} + qkv + c.q_size() + packed;
  const int64_t per_row = inputs + kept * (recompute ? 1 : c.layers) + scratch;
  const int64_t logits = 2 * std::min(rows, LogitRows(c)) * c.vocab_size;  // and packed
  return 4 * (rows * per_row + logits + max_length * c.head_dim);
}

float* TrainingPass::InputOf(size_t i, int64_t rows) { return Room(inputs_[i], rows * config_.hidden_size); }

void TrainingPass::Learn(TrainableModel& model, const TrainingBatch& batch, float scale, double* loss,
                         kernels::ThreadPool& pool) {
  Forward(model, batch, pool);
  const int64_t size = batch.rows() * config_.hidden_size;
  float* d = Room(d_, size);
  std::fill_n(d, size, 0.0f);
  Head(model, batch, scale, loss, d, pool);
  for (size_t i = model.layers.size(); i-- > 0;) BackwardLayer(model, i, batch, d, pool);
  if (model.embedding.gradient != nullptr) {
    looked_up_.insert(looked_up_.end(), batch.inputs.begin(), batch.inputs.end());
    d_looked_up_.insert(d_looked_up_.end(), d, d + size);
  }
}

void TrainingPass::Finish(TrainableModel& model, kernels::ThreadPool& pool) {
  // Last, because a tied head adds to the same gradient, and the order of additions must not depend on how
  // the batch was cut.
  if (model.embedding.gradient != nullptr) {
    kernels::AddEmbeddingGradient(looked_up_.data(), d_looked_up_.data(),
                                  static_cast<int64_t>(looked_up_.size()), config_.hidden_size,
                                  model.embedding.gradient, pool);
  }
  looked_up_.clear();
  d_looked_up_.clear();
}

void TrainingPass::Loss(TrainableModel& model, const TrainingBatch& batch, double* loss,
                        kernels::ThreadPool& pool) {
  Forward(model, batch, pool);
  Head(model, batch, 0.0f, loss, nullptr, pool);
}

void TrainingPass::Forward(TrainableModel& model, const TrainingBatch& batch, kernels::ThreadPool& pool) {
  positions_.clear();
  for (size_t t = 0; t + 1 < batch.starts.size(); ++t) {
    for (int64_t i = batch.starts[t]; i < batch.starts[t + 1]; ++i) {
      positions_.push_back(static_cast<int32_t>(i - batch.starts[t]));
    }
  }
  model.Embed(batch.inputs, InputOf(0, batch.rows()));
  for (size_t i = 0; i < model.layers.size(); ++i) ForwardLayer(model, i, batch, pool);
}

void TrainingPass::ForwardLayer(TrainableModel& model, size_t i, const TrainingBatch& batch,
                                kernels::ThreadPool& pool) {
  const ModelConfig& c = config_;
  const int64_t rows = batch.rows(), hidden = c.hidden_size, q = c.q_size(), kv = c.kv_size();
  const int64_t qkv_size = q + 2 * kv, inner = c.intermediate_size;
  TrainableLayer& w = model.layers[i];
  Layer& kept = LayerOf(i);
  const float* input = InputOf(i, rows);
  float* output = InputOf(i + 1, rows);
  float* normed = Room(normed_, rows * hidden);
  float* wide = Room(wide_, rows * std::max(inner, q));
  float* projected = Room(projected_, rows * hidden);
  float* qkv = Room(kept.qkv, rows * qkv_size);
  float* middle = Room(kept.middle, rows * hidden);
  float* gate_up = Room(kept.gate_up, rows * 2 * inner);

  kernels::RmsNorm(input, rows, hidden, w.attention_norm.value, c.rms_norm_eps, normed, pool);
  kept.attention_input.Pack(normed, hidden, rows, hidden, pool);
  w.qkv.Forward(kept.attention_input, qkv, pool);
  if (c.qk_norm) {
    float* raw = Room(kept.raw_qk, rows * (q + kv));
    for (int64_t r = 0; r < rows; ++r) std::copy_n(qkv + r * qkv_size, q + kv, raw + r * (q + kv));
    kernels::RmsNormHeads(qkv, rows, qkv_size, c.heads, c.head_dim, w.q_norm.value, c.rms_norm_eps, pool);
    kernels::RmsNormHeads(qkv + q, rows, qkv_size, c.kv_heads, c.head_dim, w.k_norm.value, c.rms_norm_eps,
                          pool);
  }
  kernels::Rope(qkv, rows, qkv_size, c.heads + c.kv_heads, positions_.data(), rope_, pool);
  kernels::CausalAttention(qkv, batch.starts, AttentionShape(c, i), wide, pool);
  kept.attention.Pack(wide, q, rows, q, pool);
  w.output.Forward(kept.attention, projected, pool);
  kernels::Add(input, projected, rows * hidden, middle, pool);

  kernels::RmsNorm(middle, rows, hidden, w.mlp_norm.value, c.rms_norm_eps, normed, pool);
  kept.mlp_input.Pack(normed, hidden, rows, hidden, pool);
  w.gate_up.Forward(kept.mlp_input, gate_up, pool);
  kernels::SiluGate(gate_up, rows, inner, wide, pool);
  kept.gated.Pack(wide, inner, rows, inner, pool);
  w.down.Forward(kept.gated, projected, pool);
  kernels::Add(middle, projected, rows * hidden, output, pool);
}

// d: the gradient of the layer's output, then of its input.
void TrainingPass::BackwardLayer(TrainableModel& model, size_t i, const TrainingBatch& batch, float* d,
                                 kernels::ThreadPool& pool) {
  if (recompute_) ForwardLayer(model, i, batch, pool);
  const ModelConfig& c = config_;
  const int64_t rows = batch.rows(), hidden = c.hidden_size, q = c.q_size(), kv = c.kv_size();
  const int64_t qkv_size = q + 2 * kv, inner = c.intermediate_size;
  TrainableLayer& w = model.layers[i];
  Layer& kept = LayerOf(i);
  const float* input = InputOf(i, rows);
  float* d_normed = Room(d_normed_, rows * hidden);
  float* d_wide = Room(wide_, rows * std::max(inner, q));
  float* d_gate_up = kept.gate_up.data();  // replaced by its gradient
  float* d_qkv = Room(d_qkv_, rows * qkv_size);

  const auto packed = [&](const float* dy, int64_t columns) -> const kernels::PackedRows& {
    packed_d_.Pack(dy, columns, rows, columns, pool);
    return packed_d_;
  };

  // Gated feed-forward.
  w.down.Backward(kept.gated, packed(d, hidden), d_wide, pool);
  kernels::SiluGateBackward(d_gate_up, d_wide, rows, inner, pool);
  w.gate_up.Backward(kept.mlp_input, packed(d_gate_up, 2 * inner), d_normed, pool);
  kernels::RmsNormBackward(kept.middle.data(), hidden, rows, 1, hidden, w.mlp_norm.value, c.rms_norm_eps,
                           d_normed, hidden, w.mlp_norm.gradient, pool);
  kernels::Add(d, d_normed, rows * hidden, d, pool);

  // Attention.
  w.output.Backward(kept.attention, packed(d, hidden), d_wide, pool);
  kernels::CausalAttentionBackward(kept.qkv.data(), d_wide, batch.starts, AttentionShape(c, i), d_qkv, pool);
  kernels::RopeBackward(d_qkv, rows, qkv_size, c.heads + c.kv_heads, positions_.data(), rope_, pool);
  if (c.qk_norm) {
    kernels::RmsNormBackward(kept.raw_qk.data(), q + kv, rows, c.heads, c.head_dim, w.q_norm.value,
                             c.rms_norm_eps, d_qkv, qkv_size, w.q_norm.gradient, pool);
    kernels::RmsNormBackward(kept.raw_qk.data() + q, q + kv, rows, c.kv_heads, c.head_dim, w.k_norm.value,
                             c.rms_norm_eps, d_qkv + q, qkv_size, w.k_norm.gradient, pool);
  }
  w.qkv.Backward(kept.attention_input, packed(d_qkv, qkv_size), d_normed, pool);
  kernels::RmsNormBackward(input, hidden, rows, 1, hidden, w.attention_norm.value, c.rms_norm_eps, d_normed,
                           hidden, w.attention_norm.gradient, pool);
  kernels::Add(d, d_normed, rows * hidden, d, pool);
}

void TrainingPass::Select(const TrainableModel& model, const TrainingBatch& batch,
                          std::span<const int64_t> rows, kernels::ThreadPool& pool) {
  const int64_t hidden = config_.hidden_size, count = static_cast<int64_t>(rows.size());
  const float* output = InputOf(model.layers.size(), batch.rows());
  float* selected = Room(selected_, count * hidden);
  for (int64_t i = 0; i < count; ++i) std::copy_n(output + rows[i] * hidden, hidden, selected + i * hidden);
  kernels::RmsNorm(selected, count, hidden, model.final_norm.value, config_.rms_norm_eps,
                   Room(normed_, count * hidden), pool);
}

void TrainingPass::Head(TrainableModel& model, const TrainingBatch& batch, float scale, double* loss,
                        float* d, kernels::ThreadPool& pool) {
  const int64_t hidden = config_.hidden_size, vocab = config_.vocab_size;
  std::vector<int64_t>& rows = selected_rows_;
  rows.clear();
  for (int64_t r = 0; r < batch.rows(); ++r) {
    if (batch.targets[r] != TrainingBatch::kNoTarget) rows.push_back(r);
  }
  const int64_t count = static_cast<int64_t>(rows.size());
  Select(model, batch, rows, pool);
  float* d_selected = Room(d_normed_, count * hidden);
  float* losses = Room(losses_, count);
  std::vector<int32_t> targets(count);
  for (int64_t i = 0; i < count; ++i) targets[i] = batch.targets[rows[i]];

  const int64_t step = LogitRows(config_);
  for (int64_t first = 0; first < count; first += step) {
    const int64_t size = std::min(step, count - first);
    float* logits = Room(logits_, size * vocab);
    packed_normed_.Pack(normed_.data() + first * hidden, hidden, size, hidden, pool);
    model.head.Forward(packed_normed_, logits, pool);
    kernels::CrossEntropy(logits, size, vocab, targets.data() + first, scale, losses + first, pool);
    if (d == nullptr) continue;
    packed_d_.Pack(logits, vocab, size, vocab, pool);
    model.head.Backward(packed_normed_, packed_d_, d_selected + first * hidden, pool);
  }
  if (d != nullptr) {
    kernels::RmsNormBackward(selected_.data(), hidden, count, 1, hidden, model.final_norm.value,
                             config_.rms_norm_eps, d_selected, hidden, model.final_norm.gradient, pool);
    for (int64_t i = 0; i < count; ++i) std::copy_n(d_selected + i * hidden, hidden, d + rows[i] * hidden);
  }
  *loss = std::accumulate(losses, losses + count, *loss);  // one chain, like the gradients
}

std::vector<int32_t> TrainingPass::Guess(TrainableModel& model, const TrainingBatch& batch,
                                         std::span<const int64_t> rows, kernels::ThreadPool& pool) {
  Forward(model, batch, pool);
  Select(model, batch, rows, pool);
  const int64_t count = static_cast<int64_t>(rows.size()), vocab = config_.vocab_size;
  std::vector<int32_t> ids(count);
  std::vector<float> values(count);
  const int64_t step = LogitRows(config_);
  for (int64_t first = 0; first < count; first += step) {
    const int64_t size = std::min(step, count - first);
    float* logits = Room(logits_, size * vocab);
    packed_normed_.Pack(normed_.data() + first * config_.hidden_size, config_.hidden_size, size,
                        config_.hidden_size, pool);
    model.head.Forward(packed_normed_, logits, pool);
    kernels::TopK(logits, vocab, size, vocab, 1, ids.data() + first, values.data() + first, nullptr, pool);
  }
  return ids;
}

}  // namespace clamor
