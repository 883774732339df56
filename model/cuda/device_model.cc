#include "model/cuda/device_model.h"

#include <algorithm>
#include <array>
#include <cstring>

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

absl::Status CheckMultiple(const char* field, int32_t value) {
  if (value % 8 == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("config.json: ", field, " is ", value, ", the CUDA back end takes multiples of 8"));
}

absl::Status CheckSizes(const ModelConfig& c) {
  CLAMOR_RETURN_IF_ERROR(CheckMultiple("hidden_size", c.hidden_size));
  CLAMOR_RETURN_IF_ERROR(CheckMultiple("intermediate_size", c.intermediate_size));
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
                                                         Weights::Progress progress) {
  auto model = absl::WrapUnique(new DeviceModel);
  CLAMOR_ASSIGN_OR_RETURN(model->description_, LoadModelDescription(model_dir));
  const ModelConfig& config = model->config();
  CLAMOR_RETURN_IF_ERROR(CheckSizes(config));
  model->max_positions_ = config.max_positions;
  if (max_positions > 0) model->max_positions_ = std::min(max_positions, config.max_positions);
  const kernels::cuda::OwnedStream stream;
  CLAMOR_ASSIGN_OR_RETURN(model->weights_, DeviceWeights::Load(model_dir, config, stream.get(), progress));
  CLAMOR_RETURN_IF_ERROR(model->UploadRope(stream.get()));
  stream.Wait();
  return model;
}

// Guesses may stand past the end of the context.
absl::Status DeviceModel::UploadRope(kernels::cuda::Stream stream) {
  const kernels::RopeTable table(config().rope.InverseFrequencies(config().head_dim),
                                 max_positions_ + kernels::cuda::kMaxNodes);
  const size_t row = table.half() * sizeof(float), half = row * table.positions();
  rope_memory_ = kernels::cuda::DeviceBuffer(2 * half, stream);
  if (rope_memory_.data() == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat("the rotary tables of ", table.positions(),
                                                     " positions take ", 2 * half, " bytes, the device has ",
                                                     kernels::cuda::FreeDeviceBytes(), " left"));
  }
  kernels::cuda::Uploads uploads(half);
  std::memcpy(uploads.Next(), table.cos(0), half);
  uploads.Upload(rope_memory_.data(), half, stream);
  std::memcpy(uploads.Next(), table.sin(0), half);
  uploads.Upload(rope_memory_.data() + half, half, stream);
  rope_ = {.cos = reinterpret_cast<const float*>(rope_memory_.data()),
           .sin = reinterpret_cast<const float*>(rope_memory_.data() + half)};
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ForwardPass>> DeviceModel::NewPass(KvCache& cache, const PassLimits& limits,
                                                                  kernels::ThreadPool&) const {
  if (limits.top_k < 1 || limits.top_k > kernels::cuda::kMaxTopK) {
    return absl::InvalidArgumentError(
        absl::StrCat("top_k is ", limits.top_k, ", must be in [1, ", kernels::cuda::kMaxTopK, "]"));
  }
  return DevicePass::Create(config(), weights_, rope_, cache.pages_total() * kernels::kPageSize,
                            max_positions_, limits);
}

}  // namespace clamor
