// A model that is ready to run: weights, tables and the forward pass over a ragged batch.
//
// Tested by tests/model/transformer_test.cc (goldens of four families) and tests/equivalence/.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/rope.h"
#include "kernels/thread_pool.h"
#include "model/activations.h"
#include "model/batch.h"
#include "model/config.h"
#include "model/kv_cache.h"
#include "model/model.h"
#include "model/weights.h"

namespace clamor {

// Immutable after Load. Forward's scratch is the caller's.
class Transformer : public Model {
 public:
  // `max_positions` > 0 caps the context below what the config allows (it sizes tables). `packed_file` as in
  // Weights::Load. Errors as LoadModelDescription and Weights::Load.
  static absl::StatusOr<std::unique_ptr<Transformer>> Load(const std::string& model_dir, WeightFormat format,
                                                           int32_t max_positions, kernels::ThreadPool& pool,
                                                           Weights::Progress progress,
                                                           const std::string& packed_file = "");

  // Runs all rows of `batch`: writes their keys and values to their slots of `cache`, and the logits of the
  // rows that want them to scratch.logits, [batch.logit_rows.size(), vocab_size] in the order of
  // batch.logit_rows.
  void Forward(const Batch& batch, KvCache& cache, Activations& scratch, kernels::ThreadPool& pool) const;

  const ModelConfig& config() const override { return description_.config; }
  const GenerationDefaults& generation() const override { return description_.generation; }
  int32_t max_positions() const override { return max_positions_; }
  size_t weight_bytes() const override { return weights_.bytes(); }
  int32_t max_tree_rows() const override { return std::numeric_limits<int32_t>::max(); }
  // Never fails.
  absl::StatusOr<std::unique_ptr<ForwardPass>> NewPass(KvCache& cache, const PassLimits& limits,
                                                       kernels::ThreadPool& pool) const override;
  const Weights& weights() const { return weights_; }

 private:
  Transformer(ModelDescription description, Weights weights, int32_t max_positions);

  ModelDescription description_;
  Weights weights_;
  int32_t max_positions_;
  kernels::RopeTable rope_;
};

}  // namespace clamor
