#include "model/cuda/device_model.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/cuda/rmsnorm.h"
#include "kernels/cuda/step_io.h"
#include "kernels/cuda/top_k.h"
#include "kernels/rope.h"
#include "kernels/status_macros.h"

namespace clamor {
namespace {

constexpr std::array<int32_t, 5> kHeadDims = {16, 32, 64, 96, 128};
constexpr int32_t kMostHeadsPerKey = 16;

absl::Status CheckMultiple(const char* field, int32_t value, int32_t of) {
  if (value % of == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("config.json: ", field, " is ", value, ", the CUDA back end takes multiples of ", of));
}

// What is cut must come out even; in shards of whole groups, so that int8 and int4 are the same numbers.
absl::Status CheckShards(const ModelConfig& c, const DeviceOptions& options) {
  const int32_t shards = options.shard_count(), ranks = static_cast<int32_t>(options.devices.size());
  if (shards % ranks != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(shards, " shards do not divide among ", ranks, " devices: give a multiple"));
  }
  if (shards == 1) return absl::OkStatus();
  if (c.kv_heads % shards != 0) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: num_key_value_heads is ", c.kv_heads,
                                                   ", which does not divide into ", shards, " shards"));
  }
  const int32_t even =
      shards * (options.weights == WeightFormat::kBF16 ? 8 : static_cast<int32_t>(kernels::kGroup));
  CLAMOR_RETURN_IF_ERROR(CheckMultiple("num_attention_heads times head_dim", c.heads * c.head_dim, even));
  return CheckMultiple("intermediate_size", c.intermediate_size, even);
}

absl::Status CheckSizes(const ModelConfig& c) {
  CLAMOR_RETURN_IF_ERROR(CheckMultiple("hidden_size", c.hidden_size, 8));
  CLAMOR_RETURN_IF_ERROR(CheckMultiple("intermediate_size", c.intermediate_size, 8));
  if (c.hidden_size > kernels::cuda::kMaxNorm) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: hidden_size is ", c.hidden_size,
                                                   ", the CUDA back end takes up to ",
                                                   kernels::cuda::kMaxNorm));
  }
  if (std::find(kHeadDims.begin(), kHeadDims.end(), c.head_dim) == kHeadDims.end()) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: head_dim is ", c.head_dim,
                                                   ", the CUDA back end takes ",
                                                   absl::StrJoin(kHeadDims, ", ")));
  }
  if (c.heads / c.kv_heads > kMostHeadsPerKey) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: ", c.heads, " heads share ", c.kv_heads,
                                                   " key heads, the CUDA back end takes up to ",
                                                   kMostHeadsPerKey, " to one"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> DeviceModel::Load(const std::string& model_dir, int32_t max_positions,
                                                         const DeviceOptions& options,
                                                         Weights::Progress progress) {
  auto model = absl::WrapUnique(new DeviceModel);
  CLAMOR_ASSIGN_OR_RETURN(model->description_, LoadModelDescription(model_dir));
  const ModelConfig& config = model->config();
  CLAMOR_RETURN_IF_ERROR(CheckSizes(config));
  CLAMOR_RETURN_IF_ERROR(CheckShards(config, options));
  model->options_ = options;
  model->max_positions_ = config.max_positions;
  if (max_positions > 0) model->max_positions_ = std::min(max_positions, config.max_positions);
  const uint64_t ranks = options.devices.size();
  const int32_t shards = options.shard_count(), held = shards / static_cast<int32_t>(ranks);
  model->ranks_.resize(ranks);
  for (uint64_t r = 0; r < ranks; ++r) {
    RankModel& rank = model->ranks_[r];
    rank.device = options.devices[r];
    const ShardRange range = {.count = shards, .first = static_cast<int32_t>(r) * held, .held = held};
    CLAMOR_RETURN_IF_ERROR(model->LoadRank(model_dir, range, rank, [&](uint64_t done, uint64_t total) {
      progress(r * total + done, ranks * total);
    }));
  }
  kernels::cuda::UseDevice(options.devices[0]);
  return model;
}

absl::Status DeviceModel::LoadRank(const std::string& model_dir, const ShardRange& range, RankModel& rank,
                                   Weights::Progress progress) const {
  kernels::cuda::UseDevice(rank.device);
  const kernels::cuda::OwnedStream stream;
  CLAMOR_ASSIGN_OR_RETURN(rank.weights, DeviceWeights::Load(model_dir, config(), options_.weights, range,
                                                            stream.get(), progress));
  CLAMOR_RETURN_IF_ERROR(UploadRope(rank, stream.get()));
  stream.Wait();
  return absl::OkStatus();
}

// Guesses may stand past the end of the context.
absl::Status DeviceModel::UploadRope(RankModel& rank, kernels::cuda::Stream stream) const {
  const kernels::RopeTable table(config().rope.InverseFrequencies(config().head_dim),
                                 max_positions_ + kernels::cuda::kMaxNodes);
  const size_t row = table.half() * sizeof(float), half = row * table.positions();
  rank.rope_memory = kernels::cuda::DeviceBuffer(2 * half, stream);
  kernels::cuda::Uploads uploads(half);
  if (rank.rope_memory.data() == nullptr || !uploads.ok()) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the rotary tables of ", table.positions(), " positions take ", 2 * half, " bytes, the device has ",
        kernels::cuda::FreeDeviceBytes(), " left, and as much of the host's pinned memory: lower --context"));
  }
  std::memcpy(uploads.Next(), table.cos(0), half);
  uploads.Upload(rank.rope_memory.data(), half, stream);
  std::memcpy(uploads.Next(), table.sin(0), half);
  uploads.Upload(rank.rope_memory.data() + half, half, stream);
  rank.rope = {.cos = reinterpret_cast<const float*>(rank.rope_memory.data()),
               .sin = reinterpret_cast<const float*>(rank.rope_memory.data() + half)};
  return absl::OkStatus();
}

size_t DeviceModel::weight_bytes() const {
  size_t bytes = 0;
  for (const RankModel& rank : ranks_) bytes += rank.weights.bytes;
  return bytes;
}

std::string DeviceModel::device() const {
  std::string what =
      absl::StrCat(kernels::cuda::DescribeDevice(ranks_[0].device), options_.exact ? ", exact" : ", fast");
  if (options_.shard_count() > 1) absl::StrAppend(&what, ", ", options_.shard_count(), " shards");
  return what;
}

DevicePassOptions DeviceModel::PassOptions(int64_t slots, const PassLimits& limits) const {
  return {.config = &config(),
          .ranks = ranks_,
          .numerics = options_.exact ? kernels::cuda::Numerics::kExact : kernels::cuda::Numerics::kFast,
          .slots = slots,
          .max_positions = max_positions_,
          .limits = limits};
}

// Some is left to graphs and to what libraries load when they are first used.
std::optional<int64_t> DeviceModel::KvTokensThatFit(const PassLimits& limits) const {
  constexpr int64_t kReserve = int64_t{512} << 20, kShareOfReserve = 10;
  int64_t least = std::numeric_limits<int64_t>::max();
  for (const RankModel& rank : ranks_) {
    kernels::cuda::UseDevice(rank.device);
    const int64_t free = static_cast<int64_t>(kernels::cuda::FreeDeviceBytes());
    const auto bytes = [&](int64_t slots) {
      return static_cast<int64_t>(DevicePass::BytesOf(PassOptions(slots, limits), rank));
    };
    constexpr int64_t kManySlots = 1 << 16;
    const int64_t none = bytes(0), of_many = bytes(kManySlots) - none;
    const int64_t room = free - std::min(kReserve, free / kShareOfReserve) - none;
    least = std::min(least, std::max<int64_t>(room, 0) / of_many * kManySlots +
                                std::max<int64_t>(room, 0) % of_many * kManySlots / of_many);
  }
  kernels::cuda::UseDevice(ranks_[0].device);
  return least / kernels::kPageSize * kernels::kPageSize;
}

absl::StatusOr<std::unique_ptr<ForwardPass>> DeviceModel::NewPass(KvCache& cache, const PassLimits& limits,
                                                                  kernels::ThreadPool&) const {
  if (limits.top_k < 1 || limits.top_k > kernels::cuda::kMaxTopK) {
    return absl::InvalidArgumentError(
        absl::StrCat("top_k is ", limits.top_k, ", must be in [1, ", kernels::cuda::kMaxTopK, "]"));
  }
  return DevicePass::Create(PassOptions(cache.pages_total() * kernels::kPageSize, limits));
}

}  // namespace clamor
