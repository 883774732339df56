// The parameters of a model, packed for the products of kernels/matmul.h. Each field has its shape beside it.
//
// Immutable after Load; shared by all threads.
// Tested by tests/model/checkpoint/weights_test.cc.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "kernels/matmul.h"
#include "model/config.h"

namespace clamor {

// How matrices are held; vectors (norms, biases) are always fp32. kStored: as the file has them; a matrix of
// several tensors that differ is fp32, which is exact. kI8, kI4: quantised while loading
// (kernels/quantized.h); with kI4 the embedding, the head and the output projections of attention are int8:
// for their size, answers feel their errors most.
enum class WeightFormat : uint8_t { kStored, kF32, kBF16, kF16, kI8, kI4 };

// "stored", "fp32", "bf16", "fp16", "int8", "int4".
absl::StatusOr<WeightFormat> ParseWeightFormat(std::string_view name);
std::string_view WeightFormatName(WeightFormat format);

// What became of the file of packed weights that Load was asked for. kLeft: another process is writing it.
enum class PackedFileUse : uint8_t { kNone, kRead, kWritten, kLeft };

struct LayerWeights {
  std::vector<float> attention_norm;  // [hidden]
  kernels::PackedMatrix qkv;          // [q_size + 2 * kv_size, hidden]: q, then k, then v
  std::vector<float> qkv_bias;        // [q_size + 2 * kv_size] or empty
  std::vector<float> q_norm, k_norm;  // [head_dim] or empty
  kernels::PackedMatrix output;       // [hidden, q_size]
  std::vector<float> output_bias;     // [hidden] or empty
  std::vector<float> mlp_norm;        // [hidden]
  kernels::PackedMatrix gate_up;      // [2 * intermediate, hidden]: gate, then up
  std::vector<float> gate_up_bias;    // [2 * intermediate] or empty
  kernels::PackedMatrix down;         // [hidden, intermediate]
  std::vector<float> down_bias;       // [hidden] or empty
};

struct Weights {
  kernels::PackedMatrix embedding;  // [vocab, hidden]; also the head if the model ties them
  std::vector<LayerWeights> layers;
  std::vector<float> final_norm;  // [hidden]
  kernels::PackedMatrix head;     // [vocab, hidden]; empty if tied

  PackedFileUse packed_file = PackedFileUse::kNone;

  const kernels::PackedMatrix& head_matrix() const { return head.n() > 0 ? head : embedding; }
  size_t bytes() const;  // packed, all matrices and vectors

  // Called now and then while loading, with the bytes (as stored in the files) packed so far and in all.
  using Progress = absl::FunctionRef<void(uint64_t done, uint64_t total)>;

  // Reads the safetensors of `model_dir`. Peak memory: the packed weights and one tensor. Errors are those of
  // Safetensors::Open and FindTensors; and INVALID_ARGUMENT names a tensor with a value that `format` cannot
  // hold: infinities and NaN in kI8 and kI4, in kF16 whatever would become infinite.
  //
  // `packed_file`: if there is such a file, matrices are read from it, to the same bits as if they were
  // packed; errors are those of model/packed_file.h. If there is none it is written in the end, and what
  // forbids that (no folder, no right, no room) is an error before anything is packed. Empty: neither.
  static absl::StatusOr<Weights> Load(const std::string& model_dir, const ModelConfig& config,
                                      WeightFormat format, kernels::ThreadPool& pool, Progress progress,
                                      const std::string& packed_file = "");
};

}  // namespace clamor
