#include "model/cuda/rank_pass.h"

#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/bias.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/join_columns.h"
#include "kernels/cuda/quantized_matmul.h"
#include "kernels/cuda/rmsnorm.h"
#include "kernels/cuda/rope_kv.h"
#include "kernels/cuda/sample.h"
#include "kernels/cuda/silu_gate.h"
#include "kernels/cuda/top_k.h"
#include "kernels/cuda/tree_attention.h"

namespace clamor {

namespace cuda = kernels::cuda;

RankPass::RankPass(const RankModel& model, const RankSizes& sizes, cuda::Numerics numerics,
                   size_t input_bytes, size_t move_bytes)
    : model_(model), sizes_(sizes), plans_(numerics), inputs_(input_bytes), moves_(move_bytes) {
  for (const DeviceMatrix& head : model_.weights.heads) {
    if (head.bf16 != nullptr) plans_.Prepare(head.n, head.k);
  }
  for (const DeviceLayer& layer : model_.weights.layers) {
    for (const DeviceShard& shard : layer.shards) {
      for (const DeviceMatrix* w : {&shard.qkv, &shard.output, &shard.gate_up, &shard.down}) {
        if (w->bf16 != nullptr) plans_.Prepare(w->n, w->k);
      }
    }
  }
}

absl::Status RankPass::Allocate() {
  if (!inputs_.ok() || !moves_.ok()) {
    return absl::ResourceExhaustedError(
        "what goes up for a step finds no room in the device's memory or in pinned memory of the host: lower "
        "--max-sequences, --prefill-chunk or --context");
  }
  const size_t bytes = RankMemory(sizes_, nullptr).bytes;
  buffer_ = cuda::DeviceBuffer(bytes, stream_.get());
  if (buffer_.data() == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "a cache of ", sizes_.slots, " tokens and steps of ", sizes_.limits.rows, " rows over ",
        sizes_.max_positions, " positions take ", bytes, " bytes, the device has ", cuda::FreeDeviceBytes(),
        " left: lower --kv-tokens, --max-sequences, --prefill-chunk or --context"));
  }
  memory_ = RankMemory(sizes_, buffer_.data());
  return UploadLayers();
}

cuda::KvPages RankPass::Cache(int layer, int shard) const {
  const size_t half = sizes_.cache_pages() * cuda::kPageTokens * sizes_.kv();
  uint16_t* const keys =
      reinterpret_cast<uint16_t*>(memory_.kv) + 2 * half * (layer * sizes_.range.held + shard);
  return {.keys = keys,
          .values = keys + half,
          .kv_heads = sizes_.kv_heads(),
          .head_dim = sizes_.config->head_dim};
}

absl::Status RankPass::UploadLayers() {
  const int count = sizes_.config->layers * sizes_.range.held;
  std::vector<cuda::KvPages> layers;
  for (int i = 0; i < count; ++i) layers.push_back(Cache(i / sizes_.range.held, i % sizes_.range.held));
  const size_t bytes = count * sizeof(cuda::KvPages);
  cuda::Uploads uploads(bytes);
  if (!uploads.ok()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a pass takes ", 2 * bytes, " bytes of pinned memory, the host has not as much left"));
  }
  std::memcpy(uploads.Next(), layers.data(), bytes);
  uploads.Upload(memory_.layers, bytes, stream_.get());
  return absl::OkStatus();
}

void RankPass::Move(const KvMoves& moves) {
  moves.Write(moves_.Next());
  moves_.Upload(moves.bytes(), stream_.get());
  moves.Run(moves_.device(), memory_.layers, sizes_.config->layers * sizes_.range.held, sizes_.kv_heads(),
            sizes_.config->head_dim, stream_.get());
}

float* RankPass::Part(bool feed, int shard) const {
  return memory_.parts[feed] + (sizes_.range.first + shard) * sizes_.rows() * sizes_.config->hidden_size;
}

void RankPass::Product(const uint16_t* x, int64_t rows, const DeviceMatrix& w, const float* bias, float* y) {
  if (w.bf16 != nullptr) {
    plans_.MatMul(x, rows, w.bf16, w.n, w.k, y, stream_.get());
  } else {
    cuda::QuantizeRows(x, rows, w.k, memory_.quantised, stream_.get());
    cuda::QuantizedMatMul(memory_.quantised, rows, w.quantized, y, stream_.get());
  }
  if (bias != nullptr) cuda::AddBias(bias, rows, static_cast<int>(w.n), y, stream_.get());
}

void RankPass::Begin(const StepShape& shape) {
  const auto* const tokens = reinterpret_cast<const int32_t*>(inputs_.device() + StepPlaces(shape).tokens);
  const DeviceMatrix& table = model_.weights.embedding;
  if (table.bf16 != nullptr) {
    cuda::Embed(table.bf16, tokens, shape.rows, static_cast<int>(table.k), memory_.hidden, stream_.get());
  } else {
    cuda::Embed(table.quantized, tokens, shape.rows, memory_.hidden, stream_.get());
  }
}

// Adds what the shards came to, if `parts` is not null, to the residual stream, and norms it.
void RankPass::Norm(const StepShape& shape, const float* weight, const float* parts, const float* bias) {
  const int hidden = sizes_.config->hidden_size;
  cuda::AddRmsNorm({.hidden = memory_.hidden,
                    .addend = parts,
                    .addends = sizes_.range.count,
                    .addend_stride = sizes_.rows() * hidden,
                    .addend_bias = bias,
                    .which = nullptr,
                    .weight = weight,
                    .eps = sizes_.config->rms_norm_eps,
                    .rows = shape.rows,
                    .n = hidden,
                    .y = memory_.normed},
                   stream_.get());
}

// As Transformer::Forward, but that each addition to the residual stream waits for the norm behind it.
void RankPass::Attend(int layer, const StepShape& shape) {
  const ModelConfig& c = *sizes_.config;
  const DeviceLayer& w = model_.weights.layers[layer];
  const StepPlaces places(shape);
  const std::byte* const in = inputs_.device();
  const auto* const slots = reinterpret_cast<const int32_t*>(in + places.slots);
  const float* const last = layer > 0 ? memory_.parts[true] : nullptr;
  Norm(shape, w.attention_norm, last, layer > 0 ? model_.weights.layers[layer - 1].down_bias : nullptr);
  for (int i = 0; i < sizes_.range.held; ++i) {
    const DeviceShard& shard = w.shards[i];
    Product(memory_.normed, shape.rows, shard.qkv, shard.qkv_bias, memory_.qkv);
    cuda::RopeKv({.qkv = memory_.qkv,
                  .q_norm = w.q_norm,
                  .k_norm = w.k_norm,
                  .eps = c.rms_norm_eps,
                  .cos = model_.rope.cos,
                  .sin = model_.rope.sin,
                  .positions = reinterpret_cast<const int32_t*>(in + places.positions),
                  .slots = slots,
                  .rows = shape.rows,
                  .heads = sizes_.heads(),
                  .q = memory_.q,
                  .kv = Cache(layer, i)},
                 stream_.get());
    cuda::TreeAttention({.q = memory_.q,
                         .rows = reinterpret_cast<const cuda::AttentionRow*>(in + places.attention),
                         .tiles = reinterpret_cast<const cuda::AttentionTile*>(in + places.tiles),
                         .page_table = reinterpret_cast<const int32_t*>(in + places.page_table),
                         .slots = slots,
                         .row_count = shape.rows,
                         .tile_count = shape.rows,
                         .pages_per_sequence = shape.pages_per_sequence,
                         .heads = sizes_.heads(),
                         .scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim)),
                         .window = c.window[layer],
                         .kv = Cache(layer, i),
                         .workspace = memory_.workspace,
                         .out = memory_.attention},
                        stream_.get());
    Product(memory_.attention, shape.rows, shard.output, nullptr, Part(false, i));
  }
}

void RankPass::Feed(int layer, const StepShape& shape) {
  const DeviceLayer& w = model_.weights.layers[layer];
  Norm(shape, w.mlp_norm, memory_.parts[false], w.output_bias);
  for (int i = 0; i < sizes_.range.held; ++i) {
    const DeviceShard& shard = w.shards[i];
    Product(memory_.normed, shape.rows, shard.gate_up, shard.gate_up_bias, memory_.gate_up);
    cuda::SiluGate(memory_.gate_up, shape.rows, static_cast<int>(sizes_.mlp()), memory_.gated, stream_.get());
    Product(memory_.gated, shape.rows, shard.down, nullptr, Part(true, i));
  }
}

// Only rows that are asked for pass through the head.
void RankPass::Finish(const StepShape& shape) {
  const DeviceWeights& weights = model_.weights;
  Norm(shape, weights.final_norm, memory_.parts[true],
       weights.layers.back().down_bias);  // for the last addition
  cuda::AddRmsNorm({.hidden = memory_.hidden,
                    .addend = nullptr,
                    .which = reinterpret_cast<const int32_t*>(inputs_.device() + StepPlaces(shape).which),
                    .weight = weights.final_norm,
                    .eps = sizes_.config->rms_norm_eps,
                    .rows = shape.wanted,
                    .n = sizes_.config->hidden_size,
                    .y = memory_.selected},
                   stream_.get());
  for (int i = 0; i < sizes_.range.held; ++i) {
    Product(memory_.selected, shape.wanted, weights.heads[i], nullptr,
            memory_.part_logits + (sizes_.range.first + i) * sizes_.rows() * sizes_.vocab());
  }
}

void RankPass::ChooseBest(const StepShape& shape, std::byte* outputs) {
  const int k = sizes_.limits.top_k;
  if (sizes_.range.count > 1) {
    cuda::JoinColumns(memory_.part_logits, sizes_.range.count, sizes_.rows() * sizes_.vocab(), shape.wanted,
                      sizes_.vocab(), memory_.logits, stream_.get());
  }
  int32_t* const ids = reinterpret_cast<int32_t*>(outputs);
  float* const values = reinterpret_cast<float*>(ids + shape.wanted * k);
  cuda::TopK({.logits = memory_.logits,
              .stride = vocab(),
              .rows = shape.wanted,
              .n = sizes_.config->vocab_size,
              .k = k,
              .ids = ids,
              .values = values,
              .log_sum_exp = values + shape.wanted * k},
             stream_.get());
  if (!shape.draws) return;
  cuda::Sample({.logits = memory_.logits,
                .stride = vocab(),
                .rows = shape.wanted,
                .n = sizes_.config->vocab_size,
                .draws = reinterpret_cast<const cuda::Draw*>(inputs_.device() + StepPlaces(shape).draws),
                .tokens = reinterpret_cast<int32_t*>(values + shape.wanted * (k + 1))},
               stream_.get());
}

}  // namespace clamor
