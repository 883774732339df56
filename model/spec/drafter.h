// Guesses the next tokens of one sequence as a tree, and learns from what became of them. Two kinds:
// MergedDrafter (all sources in one best-first tree) and PublishedDrafter (the fixed template of the MSN
// paper, for comparison).
//
// A drafter changes speed, never output. Threads: the engine's only.
#pragma once

#include <cstdint>
#include <span>

#include "model/spec/continuation_source.h"
#include "model/spec/draft_tree.h"

namespace clamor {

// The best tokens after each node of a tree, as kernels::TopK wrote them. Borrowed.
struct NodeLogits {
  int32_t k = 0;
  const int32_t* ids = nullptr;        // [nodes, k], best first
  const float* values = nullptr;       // [nodes, k] logits
  const float* log_sum_exp = nullptr;  // [nodes]

  std::span<const int32_t> Ids(int32_t node) const {
    return {ids + int64_t{node} * k, static_cast<size_t>(k)};
  }
  float LogProbability(int32_t node, int32_t rank) const {
    return values[int64_t{node} * k + rank] - log_sum_exp[node];
  }
};

class Drafter {
 public:
  static constexpr int32_t kTopK = 10;  // of NodeLogits

  virtual ~Drafter() = default;

  // The text has grown: first by the prompt, then after each step by the accepted tokens, the new root last.
  virtual void Extend(std::span<const int32_t> tokens) = 0;

  // Makes `tree` a tree of at most `max_nodes` guesses after the newest token. REQUIRES: Extend was called.
  virtual void Draft(int32_t max_nodes, DraftTree& tree) = 0;

  // Makes the tree of the last Draft the one that Draft(max_nodes) would have made, or one as good.
  virtual void Trim(int32_t max_nodes, DraftTree& tree) = 0;

  // What the model said of the tree of the last Draft or Trim. Before the Extend that follows from it.
  virtual void Observe(const DraftTree& tree, const NodeLogits& logits, const Accepted& accepted) = 0;

  // An answer of the shared store; may be late, empty or nonsense.
  virtual void Offer(ContinuationSource::Answer answer) = 0;
  // Whether an answer would be of use now.
  virtual bool WantsAnswer() const = 0;
};

}  // namespace clamor
