#include "model/train/cuda/device_training.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/cuda/adamw.h"
#include "kernels/cuda/elementwise_backward.h"
#include "kernels/cuda/rmsnorm.h"
#include "kernels/cuda/top_k.h"
#include "kernels/rope.h"
#include "kernels/status_macros.h"

namespace clamor {
namespace {

namespace cuda = kernels::cuda;

// Logits held at once, in floats: they are the widest activation by far and never exist for a whole batch.
constexpr int64_t kMaxLogits = 64 << 20;
constexpr int64_t kMostRows = 65472;  // that kernels take, in whole blocks

int64_t LogitRows(const ModelConfig& c, int64_t rows) {
  const int64_t fit =
      kMaxLogits / DeviceParameters::PaddedVocab(c.vocab_size) / cuda::kRowBlock * cuda::kRowBlock;
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

absl::Status CheckSizes(const ModelConfig& c) {
  constexpr std::array<int32_t, 5> kHeadDims = {16, 32, 64, 96, 128};
  for (const auto& [field, value] :
       {std::pair("hidden_size", c.hidden_size), std::pair("intermediate_size", c.intermediate_size)}) {
    if (value % 8 == 0) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("config.json: ", field, " is ", value, ", the CUDA back end takes multiples of 8"));
  }
  if (c.hidden_size > cuda::kMaxNorm) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: hidden_size is ", c.hidden_size,
                                                   ", the CUDA back end takes up to ", cuda::kMaxNorm));
  }
  if (std::ranges::find(kHeadDims, c.head_dim) == kHeadDims.end()) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: head_dim is ", c.head_dim,
                                                   ", the CUDA back end takes ",
                                                   absl::StrJoin(kHeadDims, ", ")));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceTraining>> DeviceTraining::Create(const ModelConfig& config,
                                                                       const ModelParameters& parameters,
                                                                       const DeviceTrainingLimits& limits) {
  CLAMOR_RETURN_IF_ERROR(CheckSizes(config));
  if (limits.rows < 1 || limits.rows > kMostRows) {
    return absl::InvalidArgumentError(absl::StrCat("batches of ", limits.rows,
                                                   " rows: the CUDA back end takes 1 to ", kMostRows,
                                                   ", lower --micro-tokens"));
  }
  auto training = absl::WrapUnique(new DeviceTraining(config, parameters, limits));
  const size_t activations = training->Place();
  const bool parameters_fit = training->parameters_.Allocate(training->stream_.get());
  if (parameters_fit) training->memory_ = cuda::DeviceBuffer(activations, training->stream_.get());
  if (training->memory_.data() == nullptr || !training->uploads_.ok() || !training->fetched_.ok()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("training takes ", training->parameters_.bytes(), " bytes for parameters and ",
                     activations, " for batches of ", limits.rows, " rows, the device has ",
                     cuda::FreeDeviceBytes(), " left: lower --micro-tokens, or set --recompute"));
  }
  training->Place();
  if (training->UploadRope()) return training;
  return absl::ResourceExhaustedError("there is no pinned memory left for the rotary tables");
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
  plans_.Prepare(qkv_size(), hidden);
  plans_.Prepare(hidden, config.q_size());
  plans_.Prepare(2 * mlp, hidden);
  plans_.Prepare(hidden, mlp);
  plans_.Prepare(padded_vocab(), hidden);
}

// Lays out all that a batch needs of the device from memory_ on. Returns its size.
size_t DeviceTraining::Place() {
  const ModelConfig& c = config_;
  const int64_t rows = rows_, hidden = c.hidden_size, mlp = c.intermediate_size, q = c.q_size(),
                kv = c.kv_size(), qkv = qkv_size();
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
  place(s.logits, logit_rows_ * padded_vocab());
  place(s.d_logits, logit_rows_ * padded_vocab());
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

bool DeviceTraining::UploadRope() {
  const kernels::RopeTable table(config_.rope.InverseFrequencies(config_.head_dim), limits_.max_length);
  const size_t bytes = table.positions() * table.half() * sizeof(float);
  cuda::Uploads uploads(bytes);
  if (!uploads.ok()) return false;
  std::memcpy(uploads.Next(), table.cos(0), bytes);
  uploads.Upload(scratch_.cos, bytes, stream_.get());
  std::memcpy(uploads.Next(), table.sin(0), bytes);
  uploads.Upload(scratch_.sin, bytes, stream_.get());
  return true;
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
  const int64_t vocab = padded_vocab(), hidden = config_.hidden_size;
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

}  // namespace clamor
