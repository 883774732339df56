// The forward and the backward pass, in the steps of training_pass.cc.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/adamw.h"
#include "kernels/cuda/bias.h"
#include "kernels/cuda/cross_entropy.h"
#include "kernels/cuda/elementwise_backward.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/rmsnorm.h"
#include "kernels/cuda/rope_backward.h"
#include "kernels/cuda/rope_kv.h"
#include "kernels/cuda/silu_gate.h"
#include "model/train/cuda/device_training.h"

namespace clamor {

namespace cuda = kernels::cuda;

void DeviceTraining::Learn(const TrainingBatch& batch, float scale) {
  const cuda::Stream stream = stream_.get();
  const Inputs in = UploadTargets(batch);
  Forward(in);
  Select(in);
  // The gradient of surplus rows is zero and stays so.
  cuda::ClearDevice(scratch_.d, in.padded * config_.hidden_size * sizeof(float), stream);
  cuda::ClearDevice(scratch_.d_rounded, in.padded * config_.hidden_size * sizeof(uint16_t), stream);
  Head(in, scale, /*learn=*/true);
  for (size_t i = offsets_.layers.size(); i-- > 0;) BackwardLayer(i, in);
  cuda::AddEmbeddingGradient(in.tokens, in.order, scratch_.d, in.rows, config_.hidden_size,
                             Gradient(offsets_.embedding), stream);
}

void DeviceTraining::Product(const uint16_t* x, const Inputs& in, int64_t weight, int64_t bias, int64_t n,
                             int64_t k, float* y) {
  plans_.MatMul(x, in.padded, Rounded(weight), n, k, y, stream_.get());
  if (bias != kNoParameter) cuda::AddBias(Value(bias), in.padded, static_cast<int>(n), y, stream_.get());
}

void DeviceTraining::ProductBackward(const uint16_t* x, const uint16_t* dy, const Inputs& in, int64_t weight,
                                     int64_t bias, int64_t n, int64_t k, float* dx) {
  gradients_.InputGradient(dy, in.padded, Rounded(weight), n, k, dx, stream_.get());
  gradients_.AddWeightGradient(dy, x, in.padded, n, k, Gradient(weight), stream_.get());
  if (bias != kNoParameter) {
    cuda::AddRowSums(dy, in.padded, static_cast<int>(n), scratch_.partial, Gradient(bias), stream_.get());
  }
}

cuda::CausalAttentionArgs DeviceTraining::AttentionOf(size_t layer, const Inputs& in) {
  const ModelConfig& c = config_;
  const Kept& kept = KeptOf(layer);
  return {.q = kept.q,
          .kv = {.keys = kept.keys, .values = kept.values, .kv_heads = c.kv_heads, .head_dim = c.head_dim},
          .tiles = in.text_tiles,
          .tile_count = in.tiles,
          .heads = c.heads,
          .scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim)),
          .window = c.window[layer],
          .out = kept.attention,
          .log_sum_exp = kept.log_sum_exp};
}

void DeviceTraining::Forward(const Inputs& in) {
  cuda::Embed(Rounded(offsets_.embedding), in.tokens, in.padded, config_.hidden_size, inputs_[0],
              stream_.get());
  for (size_t i = 0; i < offsets_.layers.size(); ++i) ForwardLayer(i, in, /*again=*/false);
}

// Each addition to the residual stream waits for the norm behind it: a layer's input is the middle of the one
// before plus what that projected, unless it has been added already.
void DeviceTraining::ForwardLayer(size_t layer, const Inputs& in, bool again) {
  const ModelConfig& c = config_;
  const LayerOffsets& w = offsets_.layers[layer];
  const cuda::Stream stream = stream_.get();
  const int64_t rows = in.padded, hidden = c.hidden_size, mlp = c.intermediate_size;
  const bool add = layer > 0 && !again;
  Kept& kept = KeptOf(layer);
  cuda::AddRmsNorm({.hidden = add ? KeptOf(layer - 1).middle : inputs_[layer],
                    .addend = add ? scratch_.projected : nullptr,
                    .which = nullptr,
                    .weight = Value(w.attention_norm),
                    .eps = c.rms_norm_eps,
                    .rows = rows,
                    .n = c.hidden_size,
                    .y = kept.attention_input,
                    .sum = inputs_[layer]},
                   stream);
  Product(kept.attention_input, in, w.qkv, w.qkv_bias, qkv_size(), hidden, kept.qkv);
  cuda::RopeKv(
      {.qkv = kept.qkv,
       .q_norm = Value(w.q_norm),
       .k_norm = Value(w.k_norm),
       .eps = c.rms_norm_eps,
       .cos = scratch_.cos,
       .sin = scratch_.sin,
       .positions = in.positions,
       .slots = in.slots,
       .rows = rows,
       .heads = c.heads,
       .q = kept.q,
       .kv = {.keys = kept.keys, .values = kept.values, .kv_heads = c.kv_heads, .head_dim = c.head_dim}},
      stream);
  cuda::ClearDevice(kept.attention + in.rows * c.q_size(), (rows - in.rows) * c.q_size() * sizeof(uint16_t),
                    stream);
  cuda::CausalAttention(AttentionOf(layer, in), stream);
  Product(kept.attention, in, w.output, w.output_bias, hidden, c.q_size(), scratch_.projected);
  cuda::AddRmsNorm({.hidden = inputs_[layer],
                    .addend = scratch_.projected,
                    .which = nullptr,
                    .weight = Value(w.mlp_norm),
                    .eps = c.rms_norm_eps,
                    .rows = rows,
                    .n = c.hidden_size,
                    .y = kept.mlp_input,
                    .sum = kept.middle},
                   stream);
  Product(kept.mlp_input, in, w.gate_up, w.gate_up_bias, 2 * mlp, hidden, kept.gate_up);
  cuda::SiluGate(kept.gate_up, rows, c.intermediate_size, kept.gated, stream);
  Product(kept.gated, in, w.down, w.down_bias, hidden, mlp, scratch_.projected);
}

// Normed hidden states of the wanted rows.
void DeviceTraining::Select(const Inputs& in) {
  float* const output = inputs_.back();
  cuda::AddRmsNormArgs norm = {.hidden = KeptOf(offsets_.layers.size() - 1).middle,
                               .addend = scratch_.projected,
                               .which = nullptr,
                               .weight = Value(offsets_.final_norm),
                               .eps = config_.rms_norm_eps,
                               .rows = in.padded,
                               .n = config_.hidden_size,
                               .y = scratch_.normed,
                               .sum = output};
  cuda::AddRmsNorm(norm, stream_.get());  // for the last addition
  norm.hidden = output;
  norm.addend = nullptr;
  norm.which = in.which;
  norm.rows = cuda::PaddedRows(in.wanted);
  norm.y = scratch_.selected;
  cuda::AddRmsNorm(norm, stream_.get());
}

void DeviceTraining::Head(const Inputs& in, float scale, bool learn) {
  const cuda::Stream stream = stream_.get();
  const int64_t hidden = config_.hidden_size, vocab = padded_vocab();
  for (int64_t first = 0; first < in.wanted; first += logit_rows_) {
    const int64_t size = std::min(logit_rows_, in.wanted - first);
    const uint16_t* const x = scratch_.selected + first * hidden;
    plans_.MatMul(x, size, Rounded(offsets_.head), vocab, hidden, scratch_.logits, stream);
    cuda::CrossEntropy({.logits = scratch_.logits,
                        .stride = vocab,
                        .targets = in.targets + first,
                        .rows = size,
                        .n = config_.vocab_size,
                        .scale = scale,
                        .losses = scratch_.losses + first,
                        .padded = cuda::PaddedRows(size),
                        .d_logits = learn ? scratch_.d_logits : nullptr},
                       stream);
    if (!learn) continue;
    gradients_.InputGradient(scratch_.d_logits, size, Rounded(offsets_.head), vocab, hidden,
                             scratch_.d_selected + first * hidden, stream);
    gradients_.AddWeightGradient(scratch_.d_logits, x, size, vocab, hidden, Gradient(offsets_.head), stream);
  }
  cuda::AddInOrder(scratch_.losses, in.wanted, scratch_.totals, stream);
  if (learn) NormBackward(inputs_.back(), in.which, in.wanted, offsets_.final_norm, scratch_.d_selected);
}

void DeviceTraining::NormBackward(const float* x, const int32_t* which, int64_t rows, int64_t weight,
                                  const float* dy) {
  cuda::RmsNormBackward({.x = x,
                         .which = which,
                         .weight = Value(weight),
                         .eps = config_.rms_norm_eps,
                         .dy = dy,
                         .rows = rows,
                         .n = config_.hidden_size,
                         .d = scratch_.d,
                         .rounded = scratch_.d_rounded,
                         .terms = scratch_.terms},
                        stream_.get());
  cuda::AddRowSums(scratch_.terms, rows, config_.hidden_size, scratch_.partial, Gradient(weight),
                   stream_.get());
}

// scratch_.d: the gradient of the layer's output, then of its input.
void DeviceTraining::BackwardLayer(size_t layer, const Inputs& in) {
  if (limits_.recompute) ForwardLayer(layer, in, /*again=*/true);
  const ModelConfig& c = config_;
  const LayerOffsets& w = offsets_.layers[layer];
  const Kept& kept = KeptOf(layer);
  const Scratch& s = scratch_;
  const cuda::Stream stream = stream_.get();
  const int64_t rows = in.padded, hidden = c.hidden_size, mlp = c.intermediate_size, qkv = qkv_size();

  // Gated feed-forward.
  ProductBackward(kept.gated, s.d_rounded, in, w.down, w.down_bias, hidden, mlp, s.d_wide);
  cuda::SiluGateBackward(kept.gate_up, s.d_wide, rows, c.intermediate_size, s.d_gate_up, stream);
  ProductBackward(kept.mlp_input, s.d_gate_up, in, w.gate_up, w.gate_up_bias, 2 * mlp, hidden, s.d_normed);
  NormBackward(kept.middle, nullptr, rows, w.mlp_norm, s.d_normed);

  // Attention.
  ProductBackward(kept.attention, s.d_rounded, in, w.output, w.output_bias, hidden, c.q_size(), s.d_wide);
  cuda::ClearDevice(s.d_qkv + in.rows * qkv, (rows - in.rows) * qkv * sizeof(float), stream);
  cuda::CausalAttentionBackward({.forward = AttentionOf(layer, in),
                                 .d_out = s.d_wide,
                                 .rows = in.rows,
                                 .rounded = s.d_attention,
                                 .products = s.products,
                                 .d_qkv = s.d_qkv},
                                stream);
  float* const k_terms = s.terms + rows * c.q_size();
  cuda::RopeBackward({.d_qkv = s.d_qkv,
                      .qkv = kept.qkv,
                      .q_norm = Value(w.q_norm),
                      .k_norm = Value(w.k_norm),
                      .eps = c.rms_norm_eps,
                      .cos = s.cos,
                      .sin = s.sin,
                      .positions = in.positions,
                      .rows = rows,
                      .heads = c.heads,
                      .kv_heads = c.kv_heads,
                      .head_dim = c.head_dim,
                      .rounded = s.d_projection,
                      .q_terms = s.terms,
                      .k_terms = k_terms},
                     stream);
  if (c.qk_norm) {
    cuda::AddRowSums(s.terms, rows * c.heads, c.head_dim, s.partial, Gradient(w.q_norm), stream);
    cuda::AddRowSums(k_terms, rows * c.kv_heads, c.head_dim, s.partial, Gradient(w.k_norm), stream);
  }
  ProductBackward(kept.attention_input, s.d_projection, in, w.qkv, w.qkv_bias, qkv, hidden, s.d_normed);
  NormBackward(inputs_[layer], nullptr, rows, w.attention_norm, s.d_normed);
}

}  // namespace clamor
