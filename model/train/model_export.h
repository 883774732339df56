// What a trained model is now, as a model directory: its parameters, or the base model's with the adapters
// merged into them.
//
// Tested by tests/model/train/model_export_test.cc.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "kernels/matmul.h"
#include "kernels/thread_pool.h"
#include "model/train/trainable_model.h"

namespace clamor {

// Errors are those of WriteModel and, with adapters, of reading the base model's tensors from `source_dir`
// again. Memory besides the model: with adapters, the largest product of a layer twice; without, none.
absl::Status ExportModel(const std::string& model_dir, const std::string& source_dir,
                         const TrainableModel& model, LowRankOptions adapters, kernels::DType dtype,
                         kernels::ThreadPool& pool);

}  // namespace clamor
