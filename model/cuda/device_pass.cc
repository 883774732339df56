#include "model/cuda/device_pass.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cuda/accept.h"
#include "kernels/cuda/bias.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/rmsnorm.h"
#include "kernels/cuda/rope_kv.h"
#include "kernels/cuda/silu_gate.h"
#include "kernels/cuda/top_k.h"
#include "kernels/cuda/tree_attention.h"

namespace clamor {
namespace {

namespace cuda = kernels::cuda;
using cuda::kMaxNodes;
using cuda::kPageTokens;

// Pages that the accepted nodes of a tree can fall into.
constexpr int kPagesOfMove = (kPageTokens - 1 + kMaxNodes - 1) / kPageTokens + 1;

// Surplus rows of a step write behind the slots of the cache.
int64_t PagesOfCache(int64_t slots, int64_t rows) { return (slots + RoundedRows(rows)) / kPageTokens + 1; }

StepPlaces LargestPlaces(const PassLimits& limits, int32_t max_positions) {
  const int64_t rows = RoundedRows(limits.rows);
  return StepPlaces({.rows = rows,
                     .wanted = rows,
                     .sequences = static_cast<int32_t>(std::min<int64_t>(rows, limits.sequences)),
                     .pages_per_sequence = RoundedPages(max_positions / kPageTokens + 1)});
}

// What comes back of a step: ids [rows, k], values [rows, k] and log-sum-exps [rows].
size_t OutputBytes(int64_t rows, int k) { return rows * (2 * size_t{sizeof(float)} * k + sizeof(float)); }

// What goes up for moves: for each sequence a tree whose nodes are its moves, all of them accepted.
struct MovePlaces {
  explicit MovePlaces(size_t sequences)
      : accepted(sequences * sizeof(cuda::StepTree)),
        pages(accepted + sequences * sizeof(cuda::Accepted)),
        slots(pages + sequences * kPagesOfMove * sizeof(int32_t)),
        bytes(slots + sequences * kMaxNodes * sizeof(int32_t)) {}

  size_t trees = 0, accepted, pages, slots, bytes;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ForwardPass>> DevicePass::Create(const ModelConfig& config,
                                                                const DeviceWeights& weights,
                                                                const DeviceRope& rope, int64_t slots,
                                                                int32_t max_positions,
                                                                const PassLimits& limits) {
  auto pass = absl::WrapUnique(new DevicePass(config, weights, rope, slots, max_positions, limits));
  const size_t bytes = pass->Place(max_positions);
  pass->memory_ = cuda::DeviceBuffer(bytes, pass->stream_.get());
  if (pass->memory_.data() == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a cache of ", slots, " tokens and steps of ", limits.rows, " rows over ", max_positions,
                     " positions take ", bytes, " bytes, the device has ", cuda::FreeDeviceBytes(),
                     " left: lower --kv-tokens, --max-sequences, --prefill-chunk or --context"));
  }
  pass->Place(max_positions);
  pass->UploadLayers();
  return pass;
}

DevicePass::DevicePass(const ModelConfig& config, const DeviceWeights& weights, const DeviceRope& rope,
                       int64_t slots, int32_t max_positions, const PassLimits& limits)
    : config_(config),
      weights_(weights),
      rope_(rope),
      slots_(slots),
      limits_(limits),
      writer_(slots, config.heads / config.kv_heads, limits.sequences),
      inputs_(std::make_unique<cuda::StepInputs>(LargestPlaces(limits, max_positions).bytes)),
      moves_(std::make_unique<cuda::StepInputs>(MovePlaces(limits.sequences).bytes)),
      outputs_(OutputBytes(RoundedRows(limits.rows), limits.top_k)),
      row_of_logits_(DeviceWeights::PaddedVocab(config.vocab_size) * sizeof(float)) {
  const int64_t hidden = config.hidden_size, mlp = config.intermediate_size;
  plans_.Prepare(config.q_size() + 2 * config.kv_size(), hidden);
  plans_.Prepare(hidden, config.q_size());
  plans_.Prepare(2 * mlp, hidden);
  plans_.Prepare(hidden, mlp);
  plans_.Prepare(DeviceWeights::PaddedVocab(config.vocab_size), hidden);
}

// Lays out all that the pass needs of the device from memory_ on. Returns its size.
size_t DevicePass::Place(int32_t max_positions) {
  const ModelConfig& c = config_;
  const int64_t rows = cuda::PaddedRows(limits_.rows);
  const int32_t pages = RoundedPages(max_positions / kPageTokens + 1);
  size_t end = 0;
  const auto place = [&]<class T>(T*& to, size_t count) {
    to = reinterpret_cast<T*>(memory_.data() + end);
    end += (count * sizeof(T) + 255) / 256 * 256;
  };
  place(scratch_.hidden, rows * c.hidden_size);
  place(scratch_.normed, rows * c.hidden_size);
  place(scratch_.qkv, rows * (c.q_size() + 2 * c.kv_size()));
  place(scratch_.q, rows * c.q_size());
  place(scratch_.attention, rows * c.q_size());
  place(scratch_.projected, rows * c.hidden_size);
  place(scratch_.gate_up, rows * 2 * c.intermediate_size);
  place(scratch_.gated, rows * c.intermediate_size);
  place(scratch_.selected, rows * c.hidden_size);
  place(scratch_.logits, rows * DeviceWeights::PaddedVocab(c.vocab_size));
  place(scratch_.workspace, cuda::TreeAttentionWorkspace(rows, c.heads, c.head_dim, pages));
  place(scratch_.layers, c.layers);
  place(scratch_.kv, size_t{2} * c.layers * PagesOfCache(slots_, limits_.rows) * kPageTokens * c.kv_size() *
                         sizeof(uint16_t));
  return end;
}

cuda::KvPages DevicePass::Layer(int layer) const {
  const size_t half = PagesOfCache(slots_, limits_.rows) * kPageTokens * config_.kv_size();
  uint16_t* const keys = reinterpret_cast<uint16_t*>(scratch_.kv) + 2 * half * layer;
  return {.keys = keys, .values = keys + half, .kv_heads = config_.kv_heads, .head_dim = config_.head_dim};
}

void DevicePass::UploadLayers() {
  const size_t bytes = config_.layers * sizeof(cuda::KvPages);
  cuda::Uploads uploads(bytes);
  std::byte* const to = uploads.Next();
  for (int i = 0; i < config_.layers; ++i) {
    const cuda::KvPages layer = Layer(i);
    std::memcpy(to + i * sizeof(layer), &layer, sizeof(layer));
  }
  uploads.Upload(scratch_.layers, bytes, stream_.get());
}

TopLogits DevicePass::Forward(const Batch& batch) {
  MoveQueued();
  const StepShape shape = writer_.ShapeOf(batch);
  writer_.Write(batch, shape, inputs_->Next());
  inputs_->Upload(StepPlaces(shape).bytes, stream_.get());
  outputs_.BeginStep(stream_.get());
  // Steps that read prompts are of many shapes, and long enough to be launched piece by piece.
  if (batch.rows() == static_cast<int64_t>(batch.logit_rows.size())) {
    const int64_t key = shape.rows << 32 | shape.pages_per_sequence;
    graphs_.Run(key, stream_.get(), [&](cuda::Stream stream) { Record(shape, stream); });
  } else {
    Record(shape, stream_.get());
  }
  outputs_.Download(OutputBytes(shape.wanted, limits_.top_k), stream_.get());
  const int64_t values = shape.wanted * limits_.top_k;
  const auto* const ids = reinterpret_cast<const int32_t*>(outputs_.Wait());
  const auto* const floats = reinterpret_cast<const float*>(ids + values);
  return {.ids = ids, .values = floats, .log_sum_exp = floats + values};
}

std::span<const float> DevicePass::Logits(int64_t wanted_row) {
  const float* const row = scratch_.logits + wanted_row * DeviceWeights::PaddedVocab(config_.vocab_size);
  const size_t n = config_.vocab_size;
  return {reinterpret_cast<const float*>(row_of_logits_.Fetch(row, n * sizeof(float), stream_.get())), n};
}

void DevicePass::Move(std::span<const int32_t> from, const KvLease& lease, int64_t first) {
  if (from.empty()) return;
  if (queued_.size() == static_cast<size_t>(limits_.sequences)) MoveQueued();
  queued_.push_back({.first = static_cast<int32_t>(from_.size()),
                     .count = static_cast<int32_t>(from.size()),
                     .offset = static_cast<int32_t>(first % kPageTokens)});
  from_.insert(from_.end(), from.begin(), from.end());
  const auto pages = lease.pages().subspan(first / kPageTokens);
  const size_t used = std::min<size_t>(pages.size(), kPagesOfMove);
  pages_.insert(pages_.end(), pages.begin(), pages.begin() + used);
  pages_.resize(queued_.size() * kPagesOfMove);
}

// In the words of CommitKv: each sequence is a tree, of whose nodes all are accepted.
void DevicePass::MoveQueued() {
  if (queued_.empty()) return;
  const MovePlaces places(limits_.sequences);
  std::byte* const to = moves_->Next();
  for (size_t i = 0; i < queued_.size(); ++i) {
    const Moves& moves = queued_[i];
    const cuda::StepTree tree = {.first = moves.first,
                                 .nodes = moves.count,
                                 .prefix = moves.offset,
                                 .sequence = static_cast<int32_t>(i)};
    cuda::Accepted accepted = {.count = moves.count, .next = 0, .nodes = {}};
    for (int32_t node = 0; node < moves.count; ++node) accepted.nodes[node] = node;
    std::memcpy(to + places.trees + i * sizeof(tree), &tree, sizeof(tree));
    std::memcpy(to + places.accepted + i * sizeof(accepted), &accepted, sizeof(accepted));
  }
  std::memcpy(to + places.pages, pages_.data(), pages_.size() * sizeof(int32_t));
  std::memcpy(to + places.slots, from_.data(), from_.size() * sizeof(int32_t));
  moves_->Upload(places.bytes, stream_.get());
  const std::byte* const device = moves_->device();
  cuda::CommitKv({.trees = reinterpret_cast<const cuda::StepTree*>(device + places.trees),
                  .accepted = reinterpret_cast<const cuda::Accepted*>(device + places.accepted),
                  .slots = reinterpret_cast<const int32_t*>(device + places.slots),
                  .page_table = reinterpret_cast<const int32_t*>(device + places.pages),
                  .pages_per_sequence = kPagesOfMove,
                  .tree_count = static_cast<int64_t>(queued_.size()),
                  .layers = scratch_.layers,
                  .layer_count = config_.layers,
                  .kv_heads = config_.kv_heads,
                  .head_dim = config_.head_dim},
                 stream_.get());
  queued_.clear();
  from_.clear();
  pages_.clear();
}

void DevicePass::Product(const uint16_t* x, int64_t rows, const uint16_t* w, const float* bias, int64_t n,
                         int64_t k, float* y, cuda::Stream stream) {
  plans_.MatMul(x, rows, w, n, k, y, stream);
  if (bias != nullptr) cuda::AddBias(bias, rows, static_cast<int>(n), y, stream);
}

void DevicePass::Record(const StepShape& shape, cuda::Stream stream) {
  const StepPlaces places(shape);
  cuda::Embed(weights_.embedding, reinterpret_cast<const int32_t*>(inputs_->device() + places.tokens),
              shape.rows, config_.hidden_size, scratch_.hidden, stream);
  for (int i = 0; i < config_.layers; ++i) RecordLayer(i, shape, stream);
  if (shape.wanted > 0) RecordHead(shape, stream);
}

// As Transformer::Forward, but that each addition to the residual stream waits for the norm behind it.
void DevicePass::RecordLayer(int layer, const StepShape& shape, cuda::Stream stream) {
  const ModelConfig& c = config_;
  const DeviceLayer& w = weights_.layers[layer];
  const StepPlaces places(shape);
  const std::byte* const in = inputs_->device();
  const auto* const slots = reinterpret_cast<const int32_t*>(in + places.slots);
  const int64_t rows = shape.rows, hidden = c.hidden_size, mlp = c.intermediate_size;
  cuda::AddRmsNormArgs norm = {.hidden = scratch_.hidden,
                               .addend = layer > 0 ? scratch_.projected : nullptr,
                               .which = nullptr,
                               .weight = w.attention_norm,
                               .eps = c.rms_norm_eps,
                               .rows = rows,
                               .n = c.hidden_size,
                               .y = scratch_.normed};
  cuda::AddRmsNorm(norm, stream);
  Product(scratch_.normed, rows, w.qkv, w.qkv_bias, c.q_size() + 2 * c.kv_size(), hidden, scratch_.qkv,
          stream);
  cuda::RopeKv({.qkv = scratch_.qkv,
                .q_norm = w.q_norm,
                .k_norm = w.k_norm,
                .eps = c.rms_norm_eps,
                .cos = rope_.cos,
                .sin = rope_.sin,
                .positions = reinterpret_cast<const int32_t*>(in + places.positions),
                .slots = slots,
                .rows = rows,
                .heads = c.heads,
                .q = scratch_.q,
                .kv = Layer(layer)},
               stream);
  cuda::TreeAttention({.q = scratch_.q,
                       .rows = reinterpret_cast<const cuda::AttentionRow*>(in + places.attention),
                       .tiles = reinterpret_cast<const cuda::AttentionTile*>(in + places.tiles),
                       .page_table = reinterpret_cast<const int32_t*>(in + places.page_table),
                       .slots = slots,
                       .row_count = rows,
                       .tile_count = rows,
                       .pages_per_sequence = shape.pages_per_sequence,
                       .heads = c.heads,
                       .scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim)),
                       .window = c.window[layer],
                       .kv = Layer(layer),
                       .workspace = scratch_.workspace,
                       .out = scratch_.attention},
                      stream);
  Product(scratch_.attention, rows, w.output, w.output_bias, hidden, c.q_size(), scratch_.projected, stream);
  norm.addend = scratch_.projected;
  norm.weight = w.mlp_norm;
  cuda::AddRmsNorm(norm, stream);
  Product(scratch_.normed, rows, w.gate_up, w.gate_up_bias, 2 * mlp, hidden, scratch_.gate_up, stream);
  cuda::SiluGate(scratch_.gate_up, rows, c.intermediate_size, scratch_.gated, stream);
  Product(scratch_.gated, rows, w.down, w.down_bias, hidden, mlp, scratch_.projected, stream);
}

// Only rows that are asked for pass through the head.
void DevicePass::RecordHead(const StepShape& shape, cuda::Stream stream) {
  const ModelConfig& c = config_;
  const int64_t vocab = DeviceWeights::PaddedVocab(c.vocab_size);
  cuda::AddRmsNormArgs norm = {.hidden = scratch_.hidden,
                               .addend = scratch_.projected,
                               .which = nullptr,
                               .weight = weights_.final_norm,
                               .eps = c.rms_norm_eps,
                               .rows = shape.rows,
                               .n = c.hidden_size,
                               .y = scratch_.normed};
  cuda::AddRmsNorm(norm, stream);  // for the last addition
  norm.addend = nullptr;
  norm.which = reinterpret_cast<const int32_t*>(inputs_->device() + StepPlaces(shape).which);
  norm.rows = shape.wanted;
  norm.y = scratch_.selected;
  cuda::AddRmsNorm(norm, stream);
  Product(scratch_.selected, shape.wanted, weights_.head, nullptr, vocab, c.hidden_size, scratch_.logits,
          stream);
  int32_t* const ids = reinterpret_cast<int32_t*>(outputs_.device());
  float* const values = reinterpret_cast<float*>(ids + shape.wanted * limits_.top_k);
  cuda::TopK({.logits = scratch_.logits,
              .stride = vocab,
              .rows = shape.wanted,
              .n = c.vocab_size,
              .k = limits_.top_k,
              .ids = ids,
              .values = values,
              .log_sum_exp = values + shape.wanted * limits_.top_k},
             stream);
}

}  // namespace clamor
