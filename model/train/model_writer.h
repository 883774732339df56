// Writes what was trained as a Hugging Face model directory, which our workers and transformers
// (`AutoModelForCausalLM`) load as it is.
//
// Tested by tests/model/train/model_writer_test.cc.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "kernels/matmul.h"
#include "model/safetensors_writer.h"
#include "model/train/parameters.h"

namespace clamor {

// Writes into `model_dir` (made if absent): model.safetensors with the tensors of `table` as `dtype`; from
// `source_dir` the files of the tokenizer and generation_config.json, those that there are; and last its
// config.json, which says `dtype` and is otherwise what it was. So a new directory that has a config.json is
// complete, and in an old one each file is replaced whole or not at all.
//
// Always one file of tensors: shards would matter beyond 5 GB, more than is trained here. Errors name the
// file; those of writing are AtomicFile's. REQUIRES: dtype is kF32 or kBF16; `values` as in
// safetensors_writer.h.
absl::Status WriteModel(const std::string& model_dir, const std::string& source_dir,
                        const ParameterTable& table, kernels::DType dtype, TensorValues values);

}  // namespace clamor
