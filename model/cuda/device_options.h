// How a model is laid on devices.
#pragma once

#include <cstdint>
#include <vector>

#include "model/weights.h"

namespace clamor {

struct DeviceOptions {
  WeightFormat weights = WeightFormat::kBF16;  // kBF16, kI8 or kI4
  // True: a row's bits depend on that row alone. False: what is quickest for so many rows.
  bool exact = true;
  // CUDA's numbers, one for each rank. Each holds as many shards as the others.
  std::vector<int32_t> devices = {0};
  // What a model is cut into; 0: as many as there are devices. With equal shards, bits are equal whatever the
  // number of devices.
  int32_t shards = 0;

  int32_t shard_count() const { return shards > 0 ? shards : static_cast<int32_t>(devices.size()); }
};

}  // namespace clamor
