// What is trained, in a device's memory: four fp32 arrays (values, gradients, both moments) and the values
// once more in bf16, for products. Unlike on the host, groups of tensors that a product takes together begin
// at multiples of 256 bytes, with zeros between them; of a vocabulary that is no multiple of 8, there are
// zero rows behind the embedding and the head.
//
// One thread at a time. Tested by tests/model/train/cuda/device_training_test.cc.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/step_io.h"
#include "model/train/parameters.h"

namespace clamor {

class DeviceParameters {
 public:
  // `parameters` outlives this. Nothing is allocated before Allocate.
  DeviceParameters(const ModelConfig& config, const ModelParameters& parameters);

  // Rows of the embedding and of the head: products want multiples of 8.
  static int64_t PaddedVocab(int32_t vocab_size) { return (int64_t{vocab_size} + 7) / 8 * 8; }

  int64_t total() const { return total_; }  // elements of an array
  size_t bytes() const { return total_ * (4 * sizeof(float) + sizeof(uint16_t)); }
  // False if the device has not as much left, or the host no pinned memory for the way there.
  bool Allocate(kernels::cuda::Stream stream);

  float* values() const { return reinterpret_cast<float*>(memory_.data()); }
  float* gradients() const { return values() + total_; }
  float* first_moments() const { return values() + 2 * total_; }
  float* second_moments() const { return values() + 3 * total_; }
  uint16_t* rounded() const { return reinterpret_cast<uint16_t*>(values() + 4 * total_); }

  // Where a group of tensors is in each array; `offset` is one of ModelParameters. null: the model has none.
  template <class T>
  T* At(T* array, int64_t offset) const {
    return offset == kNoParameter ? nullptr : array + groups_.at(offset);
  }
  // Where tensor i of the table is in each array.
  int64_t TensorAt(size_t i) const { return tensors_[i]; }

  // Between an array of the table's layout, [table.total()], and one of the device. Done when they return.
  void Upload(std::span<const float> host, float* array, kernels::cuda::Stream stream) const;
  void Download(const float* array, std::span<float> host, kernels::cuda::Stream stream) const;
  // Fills rounded() with what the values are.
  void UploadRounded(std::span<const float> host, kernels::cuda::Stream stream) const;

 private:
  const ModelParameters& parameters_;
  std::map<int64_t, int64_t> groups_;  // from offsets on the host
  std::vector<int64_t> tensors_;       // [tensors]
  int64_t total_ = 0;
  kernels::cuda::DeviceBuffer memory_;
  std::unique_ptr<kernels::cuda::Uploads> up_;  // of a piece, as is the other one
  std::unique_ptr<kernels::cuda::PinnedBuffer> down_;
};

}  // namespace clamor
