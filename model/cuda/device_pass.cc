#include "model/cuda/device_pass.h"

#include <algorithm>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"

namespace clamor {
namespace {

namespace cuda = kernels::cuda;

size_t InputBytes(const PassLimits& limits, int32_t max_positions) {
  const int64_t rows = RoundedRows(limits.rows);
  return StepPlaces({.rows = rows,
                     .wanted = rows,
                     .sequences = static_cast<int32_t>(std::min<int64_t>(rows, limits.sequences)),
                     .pages_per_sequence = RoundedPages(max_positions / cuda::kPageTokens + 1),
                     .draws = true})
      .bytes;
}

// What comes back of a step: ids [rows, k], values [rows, k], log-sum-exps [rows] and, last, tokens drawn
// [rows].
size_t OutputBytes(int64_t rows, int k, bool draws) {
  return rows * (2 * size_t{sizeof(float)} * k + sizeof(float) + (draws ? sizeof(int32_t) : 0));
}

RankSizes SizesOf(const DevicePassOptions& options, const RankModel& rank) {
  return {.config = options.config,
          .range = rank.weights.range,
          .quantised = rank.weights.embedding.bf16 == nullptr,
          .slots = options.slots,
          .max_positions = options.max_positions,
          .limits = options.limits};
}

std::vector<cuda::Rank> RanksOf(const std::vector<std::unique_ptr<RankPass>>& passes) {
  std::vector<cuda::Rank> ranks;
  for (const auto& pass : passes) ranks.push_back(pass->rank());
  return ranks;
}

std::unique_ptr<cuda::Exchange> NewExchange(const std::vector<cuda::Rank>& ranks) {
  if (ranks.size() > 1) {
    if (auto exchange = cuda::NewNcclExchange(ranks)) return exchange;
  }
  return cuda::NewPeerExchange(ranks);
}

}  // namespace

size_t DevicePass::BytesOf(const DevicePassOptions& options, const RankModel& rank) {
  return RankMemory(SizesOf(options, rank), nullptr).bytes + KvMoves(options.limits.sequences).bytes() +
         InputBytes(options.limits, options.max_positions) +
         OutputBytes(RoundedRows(options.limits.rows), options.limits.top_k, /*draws=*/true);
}

absl::StatusOr<std::unique_ptr<ForwardPass>> DevicePass::Create(const DevicePassOptions& options) {
  auto pass = absl::WrapUnique(new DevicePass(options));
  if (!pass->outputs_.ok() || !pass->row_of_logits_.ok()) {
    return absl::ResourceExhaustedError(absl::StrCat("what comes back of steps of ", options.limits.rows,
                                                     " rows finds no room in the device's memory or in "
                                                     "pinned memory of the host: lower --max-sequences or "
                                                     "--prefill-chunk"));
  }
  for (const auto& rank : pass->ranks_) {
    cuda::UseDevice(rank->rank().device);
    CLAMOR_RETURN_IF_ERROR(rank->Allocate());
  }
  cuda::UseDevice(pass->ranks_[0]->rank().device);
  return pass;
}

DevicePass::DevicePass(const DevicePassOptions& options)
    : config_(*options.config),
      limits_(options.limits),
      ranks_([&] {
        std::vector<std::unique_ptr<RankPass>> ranks;
        for (const RankModel& rank : options.ranks) {
          cuda::UseDevice(rank.device);
          ranks.push_back(std::make_unique<RankPass>(rank, SizesOf(options, rank), options.numerics,
                                                     InputBytes(limits_, options.max_positions),
                                                     KvMoves(limits_.sequences).bytes()));
        }
        return ranks;
      }()),
      exchange_(NewExchange(RanksOf(ranks_))),
      writer_(options.slots, config_.heads / config_.kv_heads, limits_.sequences),
      moves_(limits_.sequences),
      outputs_(OutputBytes(RoundedRows(limits_.rows), limits_.top_k, /*draws=*/true)),
      row_of_logits_(config_.vocab_size * sizeof(float)) {}

// Before graphs and outputs go.
DevicePass::~DevicePass() {
  for (const auto& rank : ranks_) rank->Wait();
}

void DevicePass::OnEachRank(const std::function<void(RankPass&)>& work) {
  for (const auto& rank : ranks_) {
    if (ranks_.size() > 1) cuda::UseDevice(rank->rank().device);
    work(*rank);
  }
  if (ranks_.size() > 1) cuda::UseDevice(ranks_[0]->rank().device);
}

void DevicePass::Begin(const Batch& batch) {
  MoveQueued();
  shape_ = writer_.ShapeOf(batch);
  OnEachRank([&](RankPass& rank) {
    writer_.Write(batch, shape_, rank.inputs().Next());
    rank.inputs().Upload(StepPlaces(shape_).bytes, rank.rank().stream);
  });
  const cuda::Stream stream = ranks_[0]->rank().stream;
  exchange_->Join();
  outputs_.BeginStep(stream);
  // Steps that read prompts are of many shapes, and long enough to be launched piece by piece.
  if (batch.rows() == static_cast<int64_t>(batch.logit_rows.size())) {
    const int64_t key = shape_.rows << 32 | int64_t{shape_.draws} << 31 | shape_.pages_per_sequence;
    graphs_.Run(key, stream, [&](cuda::Stream) { Record(shape_); });
  } else {
    Record(shape_);
  }
  exchange_->Fork();
  outputs_.Download(OutputBytes(shape_.wanted, limits_.top_k, shape_.draws), stream);
}

TopLogits DevicePass::Finish() {
  const int64_t values = shape_.wanted * limits_.top_k;
  const auto* const ids = reinterpret_cast<const int32_t*>(outputs_.Wait());
  const auto* const floats = reinterpret_cast<const float*>(ids + values);
  const float* const sums = floats + values;
  const auto* const drawn = reinterpret_cast<const int32_t*>(sums + shape_.wanted);
  return {.ids = ids, .values = floats, .log_sum_exp = sums, .drawn = shape_.draws ? drawn : nullptr};
}

std::span<const float> DevicePass::Logits(int64_t wanted_row) {
  const size_t n = config_.vocab_size;
  const RankPass& first = *ranks_[0];
  return {reinterpret_cast<const float*>(
              row_of_logits_.Fetch(first.logits(wanted_row), n * sizeof(float), first.rank().stream)),
          n};
}

void DevicePass::Move(std::span<const int32_t> from, const KvLease& lease, int64_t first) {
  if (from.empty()) return;
  if (moves_.full()) MoveQueued();
  moves_.Add(from, lease, first);
}

void DevicePass::MoveQueued() {
  if (moves_.empty()) return;
  OnEachRank([&](RankPass& rank) { rank.Move(moves_); });
  moves_.Clear();
}

void DevicePass::Record(const StepShape& shape) {
  exchange_->Fork();
  OnEachRank([&](RankPass& rank) { rank.Begin(shape); });
  for (int layer = 0; layer < config_.layers; ++layer) {
    OnEachRank([&](RankPass& rank) { rank.Attend(layer, shape); });
    ShareParts(false, shape);
    OnEachRank([&](RankPass& rank) { rank.Feed(layer, shape); });
    ShareParts(true, shape);
  }
  if (shape.wanted > 0) {
    OnEachRank([&](RankPass& rank) { rank.Finish(shape); });
    ShareLogits(shape);
    ranks_[0]->ChooseBest(shape, outputs_.device());
  }
  exchange_->Join();
}

// Each shard's sums go to all ranks, which add them up in the order of shards.
void DevicePass::ShareParts(bool feed, const StepShape& shape) {
  if (ranks_.size() == 1) return;
  pieces_.clear();
  bases_.clear();
  for (size_t r = 0; r < ranks_.size(); ++r) {
    const ShardRange& range = ranks_[r]->range();
    bases_.push_back(ranks_[r]->parts(feed));
    for (int i = 0; i < range.held; ++i) {
      pieces_.push_back({.owner = static_cast<int>(r),
                         .offset = (range.first + i) * ranks_[r]->part_bytes(),
                         .bytes = shape.rows * config_.hidden_size * sizeof(float)});
    }
  }
  exchange_->Share(bases_, pieces_);
}

void DevicePass::ShareLogits(const StepShape& shape) {
  if (ranks_.size() == 1) return;
  pieces_.clear();
  bases_.clear();
  for (size_t r = 0; r < ranks_.size(); ++r) {
    const ShardRange& range = ranks_[r]->range();
    const size_t row = ranks_[r]->part_logit_bytes() / cuda::PaddedRows(limits_.rows);
    bases_.push_back(ranks_[r]->part_logits());
    for (int i = 0; i < range.held; ++i) {
      pieces_.push_back({.owner = static_cast<int>(r),
                         .offset = (range.first + i) * ranks_[r]->part_logit_bytes(),
                         .bytes = shape.wanted * row});
    }
  }
  exchange_->Share(bases_, pieces_);
}

}  // namespace clamor
