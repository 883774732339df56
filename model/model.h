// A model as an engine needs it, wherever it runs: a description, and forward passes over a cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/thread_pool.h"
#include "model/batch.h"
#include "model/config.h"
#include "model/kv_cache.h"

namespace clamor {

// What a pass says of the rows whose logits were wanted, in the order of batch.logit_rows: the k best of each
// and its log-sum-exp, as kernels/top_k.h has them, and on a device the tokens drawn. Good until the next
// Begin.
struct TopLogits {
  const int32_t* ids = nullptr;        // [rows, k]
  const float* values = nullptr;       // [rows, k]
  const float* log_sum_exp = nullptr;  // [rows]
  const int32_t* drawn = nullptr;      // [rows], what batch.draws asked for; null: not drawn here
};

// The steps of one engine: scratch, and access to its keys and values. One thread at a time.
class ForwardPass {
 public:
  virtual ~ForwardPass() = default;

  // Starts to run all rows of `batch`, which may change then. On a device the caller has time for other
  // things until Finish; on the CPU it has none. REQUIRES: batch.rows() within PassLimits; the last step is
  // finished.
  virtual void Begin(const Batch& batch) = 0;
  // Returns when the results are there, and the rows' keys and values in their slots.
  virtual TopLogits Finish() = 0;
  TopLogits Forward(const Batch& batch) {
    Begin(batch);
    return Finish();
  }
  // All logits of one wanted row of the last step, [vocab_size]. Good until the next call of this or Begin.
  virtual std::span<const float> Logits(int64_t wanted_row) = 0;
  // Makes what lies in the slots `from` the keys and values of tokens first, first + 1, ... of the sequence
  // that holds `lease`. No slot of `from` may be one of those that come before its own turn.
  virtual void Move(std::span<const int32_t> from, const KvLease& lease, int64_t first) = 0;
};

struct PassLimits {
  int64_t rows = 0;       // of a step
  int32_t sequences = 0;  // of a step
  int32_t top_k = 0;
};

// Immutable; several engines may share one.
class Model {
 public:
  virtual ~Model() = default;

  virtual const ModelConfig& config() const = 0;
  virtual const GenerationDefaults& generation() const = 0;
  virtual int32_t max_positions() const = 0;
  virtual size_t weight_bytes() const = 0;  // as they are held
  // Rows that the tree of one sequence may have, its root included.
  virtual int32_t max_tree_rows() const = 0;
  // Where the model runs and what its bits depend on there beside weights and cache; empty: on the CPU, and
  // nothing.
  virtual std::string device() const { return ""; }
  // How many tokens' keys and values fit beside a pass of such limits; nothing where they are the host's.
  virtual std::optional<int64_t> KvTokensThatFit(const PassLimits&) const { return std::nullopt; }
  // `cache` and `pool` outlive the pass; a model on a device holds keys and values there, by the cache's
  // slots. RESOURCE_EXHAUSTED: the device has too little memory; says how much is missing and what to lower.
  virtual absl::StatusOr<std::unique_ptr<ForwardPass>> NewPass(KvCache& cache, const PassLimits& limits,
                                                               kernels::ThreadPool& pool) const = 0;
};

}  // namespace clamor
