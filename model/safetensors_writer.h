// Writes one safetensors file, as safetensors.h and the `safetensors` packages read it.
//
// Tested by tests/model/checkpoint/safetensors_writer_test.cc.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "kernels/matmul.h"
#include "model/model_tensors.h"

namespace clamor {

// The values of the tensor at `index`, row-major; borrowed until the next call. Called once for each, in
// order, so that a source may make them one at a time.
using TensorValues = absl::FunctionRef<std::span<const float>(size_t index)>;

// Writes `tensors` in their order, all of them as `dtype` (to bf16: nearest, ties to even). Memory: the
// header and a few hundred KB. The file is replaced whole or not at all; errors are those of AtomicFile.
// REQUIRES: dtype is kF32 or kBF16; names differ; `values` gives as many as the shape says.
absl::Status WriteSafetensors(const std::string& path, std::span<const TensorShape> tensors,
                              kernels::DType dtype, const std::map<std::string, std::string>& metadata,
                              TensorValues values);

}  // namespace clamor
