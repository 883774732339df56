// A model directory made ready for an engine, as the worker and the command line both need it.
//
// Tested by tests/services/cli/cli_test.py.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "model/tokenizer/chat_template.h"
#include "model/tokenizer/tokenizer.h"
#include "model/transformer.h"

namespace clamor {

struct ModelOptions {
  std::string directory;
  std::string weights = "stored";  // what ParseWeightFormat knows
  std::string packed_weights;      // a file, as Weights::Load takes it; empty: none
  std::string kv = "fp32";         // of keys and values: fp32, bf16 or int8
  std::string device = "auto";     // auto, cpu or cuda
  std::string numerics = "exact";  // on a GPU: exact or fast
  int32_t gpus = 1;                // that share a model
  int32_t shards = 0;              // of the model, as DeviceOptions has them
  bool may_be_on_device = false;   // the caller needs a model(), not a transformer
  int threads = 0;                 // 0: one per physical core that this process may use
  int32_t context = 0;             // tokens, 0: what the model allows
};

// Immutable once loaded.
struct LoadedModel {
  std::string name;  // ModelName of the directory
  int threads = 1;   // options.threads, resolved
  TokenizerFiles files;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;  // null if the directory has none
  std::unique_ptr<Transformer> transformer;     // null if on a GPU,
  std::unique_ptr<Model> on_device;             // null if not
  std::string no_device;                        // with --device auto: why not
  const Model& model() const { return on_device != nullptr ? *on_device : *transformer; }
  std::string stored_as;       // of the matrices: options.weights; if "stored", what the embedding is held as
  std::string packed_weights;  // options.packed_weights, unless on a GPU
  kernels::KvFormat kv_format = kernels::KvFormat::kF32;
  double load_seconds = 0;
};

// Reads everything, onto a GPU if the options allow it and there is one; keys and values are bf16 then.
// Errors name the flag, the file or the field. `progress` as Weights::Load.
absl::StatusOr<LoadedModel> LoadModel(const ModelOptions& options, Weights::Progress progress);

// The tokenizer and the chat template alone; `transformer` stays null.
absl::StatusOr<LoadedModel> LoadTokenizer(const std::string& directory);

// The directory's last component.
std::string ModelName(const std::string& directory);

// A name for what the weights and the texts around them say and how they are `held`: a hash of that, of the
// JSON files and of 256 pieces of each safetensors file, so that a large model is not read twice. Equal
// models that are held alike have equal revisions.
absl::StatusOr<std::string> ModelRevision(const std::string& directory, const std::string& held);

// All formats that change what the model answers: "bf16, keys and values fp32".
std::string HeldAs(const LoadedModel& model);

// "demo: 12.3 MiB of bf16 weights in 0.3 s, peak memory 45.6 MiB, avx2, 2 threads"; a file of packed weights
// is named, and whether they came from it.
std::string DescribeLoad(const LoadedModel& model);

// Cores that this process may run on (affinity mask and cgroup quota), hyper-threads of one core counted
// once.
int PhysicalCores();

// The most resident memory this process has had, in bytes.
int64_t PeakMemoryBytes();

}  // namespace clamor
