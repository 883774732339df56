#include "model/train/cuda/device_training.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cuda/adamw.h"
#include "kernels/cuda/bias.h"
#include "kernels/cuda/cross_entropy.h"
#include "kernels/cuda/elementwise_backward.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/rmsnorm.h"
#include "kernels/cuda/rope_backward.h"
#include "kernels/cuda/rope_kv.h"
#include "kernels/cuda/silu_gate.h"
#include "kernels/cuda/top_k.h"
#include "kernels/rope.h"
#include "kernels/status_macros.h"
#include "model/cuda/device_model.h"

namespace clamor {
namespace {

namespace cuda = kernels::cuda;

// Logits held at once, in floats: they are the widest activation by far and never exist for a whole batch.
constexpr int64_t kMaxLogits = 64 << 20;
constexpr int64_t kMostRows = 65472;  // that kernels take, in whole blocks

int64_t Vocab(const ModelConfig& c) { return DeviceWeights::PaddedVocab(c.vocab_size); }
int64_t QkvSize(const ModelConfig& c) { return c.q_size() + 2 * int64_t{c.kv_size()}; }

int64_t LogitRows(const ModelConfig& c, int64_t rows) {
  const int64_t fit = kMaxLogits / Vocab(c) / cuda::kRowBlock * cuda::kRowBlock;
  return std::clamp<int64_t>(fit, cuda::kRowBlock, rows);
}

// Byte offsets of what goes up for a batch.
struct UploadPlaces {
  explicit UploadPlaces(int64_t padded)
      : positions(padded * sizeof(int32_t)),
        slots(2 * positions),
        order(3 * positions),
        which(4 * positions),
        targets(5 * positions),
        tiles(6 * positions),
        bytes(tiles + padded * sizeof(cuda::TextTile)) {}

  size_t tokens = 0, positions, slots, order, which, targets, tiles, bytes;
};

std::vector<int64_t> RowsWithTargets(const TrainingBatch& batch) {
  std::vector<int64_t> rows;
  for (int64_t r = 0; r < batch.rows(); ++r) {
    if (batch.targets[r] != TrainingBatch::kNoTarget) rows.push_back(r);
  }
  return rows;
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceTraining>> DeviceTraining::Create(const ModelConfig& config,
                                                                       const ModelParameters& parameters,
                                                                       const DeviceTrainingLimits& limits) {
  CLAMOR_RETURN_IF_ERROR(CheckDeviceSizes(config));
  if (limits.rows < 1 || limits.rows > kMostRows) {
    return absl::InvalidArgumentError(absl::StrCat("batches of ", limits.rows,
                                                   " rows: the CUDA back end takes 1 to ", kMostRows,
                                                   ", lower --micro-tokens"));
  }
  auto training = absl::WrapUnique(new DeviceTraining(config, parameters, limits));
  const size_t activations = training->Place();
  bool there = training->parameters_.Allocate(training->stream_.get());
  if (there) {
    training->memory_ = cuda::DeviceBuffer(activations, training->stream_.get());
    there = training->memory_.data() != nullptr;
  }
  if (!there) {
    return absl::ResourceExhaustedError(
        absl::StrCat("training takes ", training->parameters_.bytes(), " bytes for parameters and ",
                     activations, " for batches of ", limits.rows, " rows, the device has ",
                     cuda::FreeDeviceBytes(), " left: lower --micro-tokens, or set --recompute"));
  }
  training->Place();
  training->UploadRope();
  return training;
}

DeviceTraining::DeviceTraining(const ModelConfig& config, const ModelParameters& parameters,
                               const DeviceTrainingLimits& limits)
    : config_(config),
      offsets_(parameters),
      limits_(limits),
      rows_(cuda::PaddedRows(limits.rows)),
      logit_rows_(LogitRows(config, rows_)),
      parameters_(config, parameters),
      inputs_(config.layers + 1),
      kept_(limits.recompute ? 1 : config.layers),
      uploads_(UploadPlaces(rows_).bytes),
      fetched_(std::max<size_t>(rows_ * sizeof(int32_t), 64)) {
  const int64_t hidden = config.hidden_size, mlp = config.intermediate_size;
  plans_.Prepare(QkvSize(config), hidden);
  plans_.Prepare(hidden, config.q_size());
  plans_.Prepare(2 * mlp, hidden);
  plans_.Prepare(hidden, mlp);
  plans_.Prepare(Vocab(config), hidden);
}

// Lays out all that a batch needs of the device from memory_ on. Returns its size.
size_t DeviceTraining::Place() {
  const ModelConfig& c = config_;
  const int64_t rows = rows_, hidden = c.hidden_size, mlp = c.intermediate_size, q = c.q_size(),
                kv = c.kv_size(), qkv = QkvSize(c);
  size_t end = 0;
  const auto place = [&]<class T>(T*& to, size_t count) {
    to = reinterpret_cast<T*>(memory_.data() + end);
    end += (count * sizeof(T) + 255) / 256 * 256;
  };
  for (float*& input : inputs_) place(input, rows * hidden);
  for (Kept& kept : kept_) {
    place(kept.attention_input, rows * hidden);
    place(kept.qkv, rows * qkv);
    place(kept.q, rows * q);
    place(kept.keys, rows * kv);
    place(kept.values, rows * kv);
    place(kept.attention, rows * q);
    place(kept.log_sum_exp, rows * c.heads);
    place(kept.middle, rows * hidden);
    place(kept.mlp_input, rows * hidden);
    place(kept.gate_up, rows * 2 * mlp);
    place(kept.gated, rows * mlp);
  }
  Scratch& s = scratch_;
  place(s.projected, rows * hidden);
  place(s.d, rows * hidden);
  place(s.d_rounded, rows * hidden);
  place(s.d_wide, rows * std::max(q, mlp));
  place(s.d_normed, rows * hidden);
  place(s.d_gate_up, rows * 2 * mlp);
  place(s.d_qkv, rows * qkv);
  place(s.d_projection, rows * qkv);
  place(s.d_attention, rows * q);
  place(s.products, rows * c.heads);
  place(s.terms, rows * std::max(hidden, q + kv));
  place(s.partial, cuda::RowSumsWorkspace(rows, std::max({hidden, qkv, 2 * mlp})));
  place(s.normed, rows * hidden);
  place(s.selected, rows * hidden);
  place(s.d_selected, rows * hidden);
  place(s.logits, logit_rows_ * Vocab(c));
  place(s.d_logits, logit_rows_ * Vocab(c));
  place(s.losses, rows);
  place(s.guesses, rows);
  place(s.best_logits, rows);
  place(s.log_sums, rows);
  place(s.squares, cuda::SquaresPieces(parameters_.total()));
  place(s.totals, 2);
  place(s.cos, int64_t{limits_.max_length} * c.head_dim / 2);
  place(s.sin, int64_t{limits_.max_length} * c.head_dim / 2);
  return end;
}

void DeviceTraining::UploadRope() {
  const kernels::RopeTable table(config_.rope.InverseFrequencies(config_.head_dim), limits_.max_length);
  const size_t bytes = table.positions() * table.half() * sizeof(float);
  cuda::Uploads uploads(bytes);
  std::memcpy(uploads.Next(), table.cos(0), bytes);
  uploads.Upload(scratch_.cos, bytes, stream_.get());
  std::memcpy(uploads.Next(), table.sin(0), bytes);
  uploads.Upload(scratch_.sin, bytes, stream_.get());
}

void DeviceTraining::Restore(const TrainingState& host) {
  parameters_.Upload(host.values, parameters_.values(), stream_.get());
  parameters_.UploadRounded(host.values, stream_.get());
  parameters_.Upload(host.first_moments, parameters_.first_moments(), stream_.get());
  parameters_.Upload(host.second_moments, parameters_.second_moments(), stream_.get());
}

void DeviceTraining::Fetch(const TrainingState& host) {
  parameters_.Download(parameters_.values(), host.values, stream_.get());
  parameters_.Download(parameters_.first_moments(), host.first_moments, stream_.get());
  parameters_.Download(parameters_.second_moments(), host.second_moments, stream_.get());
}

void DeviceTraining::FetchGradients(std::span<float> host) {
  parameters_.Download(parameters_.gradients(), host, stream_.get());
}

TrainingBackend::Sums DeviceTraining::Step(std::span<const TrainingBatch> batches, float scale,
                                           const OptimizerStep& step) {
  const cuda::Stream stream = stream_.get();
  cuda::ClearDevice(parameters_.gradients(), parameters_.total() * sizeof(float), stream);
  cuda::ClearDevice(scratch_.totals, 2 * sizeof(double), stream);
  for (const TrainingBatch& batch : batches) Learn(batch, scale);

  double* const squares = scratch_.totals + 1;
  cuda::SumSquares(parameters_.gradients(), parameters_.total(), scratch_.squares, stream);
  cuda::AddInOrder(scratch_.squares, cuda::SquaresPieces(parameters_.total()), squares, stream);
  for (size_t i = 0; i < offsets_.table.parameters().size(); ++i) {
    const Parameter& p = offsets_.table.parameters()[i];
    const int64_t at = parameters_.TensorAt(i);
    cuda::AdamW({.learning_rate = step.learning_rate,
                 .beta1 = step.beta1,
                 .beta2 = step.beta2,
                 .epsilon = step.epsilon,
                 .weight_decay = p.decays ? step.weight_decay : 0.0f,
                 .correction1 = step.correction1,
                 .correction2_root = step.correction2_root,
                 .squares = squares,
                 .clip_norm = step.clip_norm,
                 .gradients = parameters_.gradients() + at,
                 .parameters = parameters_.values() + at,
                 .first_moments = parameters_.first_moments() + at,
                 .second_moments = parameters_.second_moments() + at,
                 .rounded = parameters_.rounded() + at,
                 .count = p.size},
                stream);
  }
  return {.loss = FetchTotal(0), .gradient_norm = std::sqrt(FetchTotal(1))};
}

double DeviceTraining::FetchTotal(int which) {
  double total;
  std::memcpy(&total, fetched_.Fetch(scratch_.totals + which, sizeof(total), stream_.get()), sizeof(total));
  return total;
}

void DeviceTraining::Loss(const TrainingBatch& batch, double* loss) {
  cuda::ClearDevice(scratch_.totals, sizeof(double), stream_.get());
  const Inputs in = UploadTargets(batch);
  Forward(in);
  Select(in);
  Head(in, 0.0f, /*learn=*/false);
  *loss += FetchTotal(0);
}

std::vector<int32_t> DeviceTraining::Guess(const TrainingBatch& batch, std::span<const int64_t> rows) {
  const int64_t vocab = Vocab(config_), hidden = config_.hidden_size;
  const Inputs in = UploadBatch(batch, rows, {});
  Forward(in);
  Select(in);
  for (int64_t first = 0; first < in.wanted; first += logit_rows_) {
    const int64_t size = std::min(logit_rows_, in.wanted - first);
    plans_.MatMul(scratch_.selected + first * hidden, size, Rounded(offsets_.head), vocab, hidden,
                  scratch_.logits, stream_.get());
    cuda::TopK({.logits = scratch_.logits,
                .stride = vocab,
                .rows = size,
                .n = config_.vocab_size,
                .k = 1,
                .ids = scratch_.guesses + first,
                .values = scratch_.best_logits + first,
                .log_sum_exp = scratch_.log_sums + first},
               stream_.get());
  }
  std::vector<int32_t> guesses(rows.size());
  const size_t bytes = guesses.size() * sizeof(int32_t);
  if (bytes > 0) std::memcpy(guesses.data(), fetched_.Fetch(scratch_.guesses, bytes, stream_.get()), bytes);
  return guesses;
}

DeviceTraining::Inputs DeviceTraining::UploadTargets(const TrainingBatch& batch) {
  const std::vector<int64_t> rows = RowsWithTargets(batch);
  std::vector<int32_t> targets;
  for (const int64_t r : rows) targets.push_back(batch.targets[r]);
  return UploadBatch(batch, rows, targets);
}

// Surplus rows read token 0 at position 0 and belong to no text; surplus wanted rows repeat row 0.
DeviceTraining::Inputs DeviceTraining::UploadBatch(const TrainingBatch& batch,
                                                   std::span<const int64_t> wanted,
                                                   std::span<const int32_t> targets) {
  Inputs in = {.rows = batch.rows(),
               .padded = cuda::PaddedRows(batch.rows()),
               .wanted = static_cast<int64_t>(wanted.size())};
  const UploadPlaces places(in.padded);
  std::byte* const to = uploads_.Next();
  std::memset(to, 0, places.bytes);
  const auto array = [&](size_t at) { return reinterpret_cast<int32_t*>(to + at); };
  std::ranges::copy(batch.inputs, array(places.tokens));
  std::iota(array(places.slots), array(places.slots) + in.padded, 0);
  int32_t* const order = array(places.order);
  std::iota(order, order + in.rows, 0);
  std::stable_sort(order, order + in.rows,
                   [&](int32_t a, int32_t b) { return batch.inputs[a] < batch.inputs[b]; });
  std::ranges::copy(wanted, array(places.which));
  std::ranges::copy(targets, array(places.targets));
  auto* const tiles = reinterpret_cast<cuda::TextTile*>(to + places.tiles);
  for (size_t t = 0; t + 1 < batch.starts.size(); ++t) {
    const auto begin = static_cast<int32_t>(batch.starts[t]), end = static_cast<int32_t>(batch.starts[t + 1]);
    std::iota(array(places.positions) + begin, array(places.positions) + end, 0);
    for (int32_t first = begin; first < end; first += cuda::kTextTile)
      tiles[in.tiles++] = {begin, end, first};
  }
  uploads_.Upload(places.bytes, stream_.get());

  const std::byte* const device = uploads_.device();
  const auto on_device = [&](size_t at) { return reinterpret_cast<const int32_t*>(device + at); };
  in.tokens = on_device(places.tokens);
  in.positions = on_device(places.positions);
  in.slots = on_device(places.slots);
  in.order = on_device(places.order);
  in.which = on_device(places.which);
  in.targets = on_device(places.targets);
  in.text_tiles = reinterpret_cast<const cuda::TextTile*>(device + places.tiles);
  return in;
}

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
  plans_.InputGradient(dy, in.padded, Rounded(weight), n, k, dx, stream_.get());
  plans_.AddWeightGradient(dy, x, in.padded, n, k, Gradient(weight), stream_.get());
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
  Product(kept.attention_input, in, w.qkv, w.qkv_bias, QkvSize(c), hidden, kept.qkv);
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
  const int64_t hidden = config_.hidden_size, vocab = Vocab(config_);
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
    plans_.InputGradient(scratch_.d_logits, size, Rounded(offsets_.head), vocab, hidden,
                         scratch_.d_selected + first * hidden, stream);
    plans_.AddWeightGradient(scratch_.d_logits, x, size, vocab, hidden, Gradient(offsets_.head), stream);
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
  const int64_t rows = in.padded, hidden = c.hidden_size, mlp = c.intermediate_size, qkv = QkvSize(c);

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
