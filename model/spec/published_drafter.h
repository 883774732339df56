// TR-Jacobi as published with MSN (arXiv 2406.17404): 68 nodes and the root. One chain of five retrieved
// tokens, and Medusa's 63-node shape filled per depth with the ten best tokens of the last rejected chain;
// what no chain filled holds random tokens of the text so far.
//
// Unlike the released code, a search path ends where it ends: padding it with the root would accept an "A B
// A" that the model never said. Tested by tests/model/spec/published_drafter_test.cc.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "model/spec/drafter.h"

namespace clamor {

class PublishedDrafter : public Drafter {
 public:
  static constexpr int32_t kNodes = 68;
  static constexpr int32_t kDepth = 5;

  explicit PublishedDrafter(uint64_t seed) : random_(seed) {}

  void Extend(std::span<const int32_t> tokens) override;
  // Always the whole template, whatever `max_nodes` says.
  void Draft(int32_t max_nodes, DraftTree& tree) override;
  // The template is fixed: all of it or nothing.
  void Trim(int32_t max_nodes, DraftTree& tree) override;
  void Observe(const DraftTree& tree, const NodeLogits& logits, const Accepted& accepted) override;
  void Offer(ContinuationSource::Answer) override {}
  bool WantsAnswer() const override { return false; }

 private:
  static constexpr int32_t kUnknown = -1;
  static constexpr int32_t kRetrievedColumn = kTopK;

  void Retrieve();

  std::vector<int32_t> text_;                                   // the newest token, the root, is the last
  std::array<std::array<int32_t, kTopK + 1>, kDepth> table_{};  // [depth - 1][column] token
  bool fresh_ = true;                                           // no step yet: the table holds nothing
  uint64_t random_;
};

}  // namespace clamor
