#include "model/train/cuda/device_parameters.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "kernels/float_formats.h"

namespace clamor {
namespace {

constexpr int64_t kAlignment = 128;           // elements: 256 bytes of the smallest
constexpr int64_t kPiece = int64_t{4} << 20;  // elements that are pinned at a time

std::set<int64_t> GroupsOf(const ModelParameters& p) {
  std::set<int64_t> groups = {p.embedding, p.final_norm, p.head};
  for (const LayerOffsets& l : p.layers) {
    groups.insert({l.attention_norm, l.qkv, l.qkv_bias, l.q_norm, l.k_norm, l.output, l.output_bias,
                   l.mlp_norm, l.gate_up, l.gate_up_bias, l.down, l.down_bias});
  }
  return groups;
}

// Calls copy(host offset, array offset, count) for pieces of all tensors.
template <class Copy>
void ForEachPiece(const ParameterTable& table, const std::vector<int64_t>& places, Copy copy) {
  for (size_t i = 0; i < places.size(); ++i) {
    const Parameter& p = table.parameters()[i];
    for (int64_t done = 0; done < p.size; done += kPiece)
      copy(p.offset + done, places[i] + done, std::min(kPiece, p.size - done));
  }
}

}  // namespace

DeviceParameters::DeviceParameters(const ModelConfig& config, const ModelParameters& parameters)
    : parameters_(parameters) {
  const std::set<int64_t> groups = GroupsOf(parameters);
  const int64_t surplus = (PaddedVocab(config.vocab_size) - config.vocab_size) * config.hidden_size;
  for (const Parameter& p : parameters.table.parameters()) {
    if (groups.contains(p.offset)) {
      total_ = (total_ + kAlignment - 1) / kAlignment * kAlignment;
      groups_[p.offset] = total_;
    }
    tensors_.push_back(total_);
    total_ += p.size;
    if (p.offset == parameters.embedding || p.offset == parameters.head) total_ += surplus;
  }
  total_ = (total_ + kAlignment - 1) / kAlignment * kAlignment;
}

bool DeviceParameters::Allocate(kernels::cuda::Stream stream) {
  memory_ = kernels::cuda::DeviceBuffer(bytes(), stream);
  if (memory_.data() == nullptr) return false;
  const size_t piece = std::min(kPiece, parameters_.table.total()) * sizeof(float);
  up_ = std::make_unique<kernels::cuda::Uploads>(piece);
  down_ = std::make_unique<kernels::cuda::PinnedBuffer>(piece);
  return up_->ok() && down_->ok();
}

void DeviceParameters::Upload(std::span<const float> host, float* array, kernels::cuda::Stream stream) const {
  ForEachPiece(parameters_.table, tensors_, [&](int64_t from, int64_t to, int64_t count) {
    std::memcpy(up_->Next(), host.data() + from, count * sizeof(float));
    up_->Upload(array + to, count * sizeof(float), stream);
  });
}

void DeviceParameters::UploadRounded(std::span<const float> host, kernels::cuda::Stream stream) const {
  ForEachPiece(parameters_.table, tensors_, [&](int64_t from, int64_t to, int64_t count) {
    auto* const next = reinterpret_cast<uint16_t*>(up_->Next());
    for (int64_t i = 0; i < count; ++i) next[i] = kernels::ToBF16(host[from + i]);
    up_->Upload(rounded() + to, count * sizeof(uint16_t), stream);
  });
}

void DeviceParameters::Download(const float* array, std::span<float> host,
                                kernels::cuda::Stream stream) const {
  ForEachPiece(parameters_.table, tensors_, [&](int64_t to, int64_t from, int64_t count) {
    const std::byte* const piece = down_->Fetch(array + from, count * sizeof(float), stream);
    std::memcpy(host.data() + to, piece, count * sizeof(float));
  });
}

}  // namespace clamor
