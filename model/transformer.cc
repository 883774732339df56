#include "model/transformer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "kernels/status_macros.h"
#include "kernels/top_k.h"

namespace clamor {
namespace {

// Guesses may stand past the end of the context; they are never emitted.
constexpr int32_t kSpareDepth = 128;

const float* OrNull(const std::vector<float>& v) { return v.empty() ? nullptr : v.data(); }

class TransformerPass : public ForwardPass {
 public:
  TransformerPass(const Transformer& model, KvCache& cache, int32_t top_k, kernels::ThreadPool& pool)
      : model_(model), cache_(cache), top_k_(top_k), pool_(pool) {}

  void Begin(const Batch& batch) override {
    model_.Forward(batch, cache_, activations_, pool_);
    const int64_t rows = static_cast<int64_t>(batch.logit_rows.size()), vocab = model_.config().vocab_size;
    ids_.resize(rows * top_k_);
    values_.resize(rows * top_k_);
    log_sum_exp_.resize(rows);
    kernels::TopK(activations_.logits.data(), vocab, rows, vocab, top_k_, ids_.data(), values_.data(),
                  log_sum_exp_.data(), pool_);
  }
  TopLogits Finish() override {
    return {.ids = ids_.data(), .values = values_.data(), .log_sum_exp = log_sum_exp_.data()};
  }
  std::span<const float> Logits(int64_t wanted_row) override {
    const int64_t vocab = model_.config().vocab_size;
    return std::span(activations_.logits.data() + wanted_row * vocab, vocab);
  }
  void Move(std::span<const int32_t> from, const KvLease& lease, int64_t first) override {
    for (size_t i = 0; i < from.size(); ++i) {
      const int32_t to = lease.Slot(first + static_cast<int64_t>(i));
      if (from[i] != to) cache_.Move(from[i], to);
    }
  }

 private:
  const Transformer& model_;
  KvCache& cache_;
  const int32_t top_k_;
  kernels::ThreadPool& pool_;
  Activations activations_;
  std::vector<int32_t> ids_;
  std::vector<float> values_, log_sum_exp_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Transformer>> Transformer::Load(const std::string& model_dir,
                                                               WeightFormat format, int32_t max_positions,
                                                               kernels::ThreadPool& pool,
                                                               Weights::Progress progress,
                                                               const std::string& packed_file) {
  CLAMOR_ASSIGN_OR_RETURN(ModelDescription description, LoadModelDescription(model_dir));
  CLAMOR_ASSIGN_OR_RETURN(Weights weights,
                          Weights::Load(model_dir, description.config, format, pool, progress, packed_file));
  int32_t positions = description.config.max_positions;
  if (max_positions > 0) positions = std::min(positions, max_positions);
  return std::unique_ptr<Transformer>(new Transformer(std::move(description), std::move(weights), positions));
}

Transformer::Transformer(ModelDescription description, Weights weights, int32_t max_positions)
    : description_(std::move(description)),
      weights_(std::move(weights)),
      max_positions_(max_positions),
      rope_(description_.config.rope.InverseFrequencies(description_.config.head_dim),
            max_positions + kSpareDepth) {}

absl::StatusOr<std::unique_ptr<ForwardPass>> Transformer::NewPass(KvCache& cache, const PassLimits& limits,
                                                                  kernels::ThreadPool& pool) const {
  return std::make_unique<TransformerPass>(*this, cache, limits.top_k, pool);
}

void Transformer::Forward(const Batch& batch, KvCache& cache, Activations& scratch,
                          kernels::ThreadPool& pool) const {
  const ModelConfig& c = config();
  const int64_t rows = batch.rows();
  const int64_t hidden_size = c.hidden_size, q_size = c.q_size(), kv_size = c.kv_size();
  const int64_t qkv_size = q_size + 2 * kv_size, mlp_size = c.intermediate_size;
  const float scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));

  float* hidden = Room(scratch.hidden, rows * hidden_size);
  float* normed = Room(scratch.normed, rows * hidden_size);
  float* qkv = Room(scratch.qkv, rows * qkv_size);
  float* attention = Room(scratch.attention, rows * q_size);
  float* projected = Room(scratch.projected, rows * hidden_size);
  float* gate_up = Room(scratch.gate_up, rows * 2 * mlp_size);
  float* gated = Room(scratch.gated, rows * mlp_size);

  for (int64_t r = 0; r < rows; ++r) weights_.embedding.UnpackRow(batch.tokens[r], hidden + r * hidden_size);

  for (int i = 0; i < c.layers; ++i) {
    const LayerWeights& w = weights_.layers[i];
    const kernels::KvLayer kv = cache.layer(i);

    // Attention over what each row sees; its own key and value are stored first.
    kernels::RmsNorm(hidden, rows, hidden_size, w.attention_norm.data(), c.rms_norm_eps, normed, pool);
    kernels::MatMul(normed, hidden_size, rows, w.qkv, OrNull(w.qkv_bias), qkv, qkv_size, pool);
    if (c.qk_norm) {
      kernels::RmsNormHeads(qkv, rows, qkv_size, c.heads, c.head_dim, w.q_norm.data(), c.rms_norm_eps, pool);
      kernels::RmsNormHeads(qkv + q_size, rows, qkv_size, c.kv_heads, c.head_dim, w.k_norm.data(),
                            c.rms_norm_eps, pool);
    }
    // q and k stand side by side: one call rotates both.
    kernels::Rope(qkv, rows, qkv_size, c.heads + c.kv_heads, batch.positions.data(), rope_, pool);
    kernels::StoreKv(qkv + q_size, qkv_size, qkv + q_size + kv_size, qkv_size, rows, batch.slots.data(), kv,
                     pool);
    kernels::TreeAttention(qkv, qkv_size, batch.attention, c.heads, scale, c.window[i], kv, attention, q_size,
                           pool);
    kernels::MatMul(attention, q_size, rows, w.output, OrNull(w.output_bias), projected, hidden_size, pool);
    kernels::Add(hidden, projected, rows * hidden_size, hidden, pool);

    // Gated feed-forward.
    kernels::RmsNorm(hidden, rows, hidden_size, w.mlp_norm.data(), c.rms_norm_eps, normed, pool);
    kernels::MatMul(normed, hidden_size, rows, w.gate_up, OrNull(w.gate_up_bias), gate_up, 2 * mlp_size,
                    pool);
    kernels::SiluGate(gate_up, rows, mlp_size, gated, pool);
    kernels::MatMul(gated, mlp_size, rows, w.down, OrNull(w.down_bias), projected, hidden_size, pool);
    kernels::Add(hidden, projected, rows * hidden_size, hidden, pool);
  }

  // The head is the widest product by far: only rows that are asked for pass through it.
  const int64_t wanted = static_cast<int64_t>(batch.logit_rows.size());
  float* selected = Room(scratch.selected, wanted * hidden_size);
  float* logits = Room(scratch.logits, wanted * c.vocab_size);
  for (int64_t i = 0; i < wanted; ++i) {
    std::copy_n(hidden + batch.logit_rows[i] * hidden_size, hidden_size, selected + i * hidden_size);
  }
  kernels::RmsNorm(selected, wanted, hidden_size, weights_.final_norm.data(), c.rms_norm_eps, selected, pool);
  kernels::MatMul(selected, hidden_size, wanted, weights_.head_matrix(), nullptr, logits, c.vocab_size, pool);
}

}  // namespace clamor
