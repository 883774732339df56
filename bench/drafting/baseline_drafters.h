// Drafting by the rules of others, to hold ours against at the same number of nodes.
//
// Threads: the engine's only.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "model/spec/drafter.h"

namespace clamor {

// Parents stand before children, so the first nodes are a tree.
inline void KeepFirst(int32_t max_nodes, DraftTree& tree) {
  if (tree.drafted() > max_nodes) tree.nodes.resize(max_nodes + 1);
}

// Prompt lookup decoding (github.com/apoorvumang/prompt-lookup-decoding): what followed the first earlier
// place of the last three tokens, else of the last two, else of the last one; a chain of as many nodes as
// allowed.
class PromptLookupDrafter final : public Drafter {
 public:
  void Extend(std::span<const int32_t> tokens) override;
  void Draft(int32_t max_nodes, DraftTree& tree) override;
  void Trim(int32_t max_nodes, DraftTree& tree) override { KeepFirst(max_nodes, tree); }
  void Observe(const DraftTree&, const NodeLogits&, const Accepted&) override {}
  void Offer(ContinuationSource::Answer) override {}
  bool WantsAnswer() const override { return false; }

 private:
  std::vector<int32_t> text_;
};

// Of Token Recycling: the eight likeliest successors last seen of each token, at first zeros. Serves all
// requests.
class RecyclingTable {
 public:
  static constexpr int32_t kSuccessors = 8;
  explicit RecyclingTable(int32_t vocab_size) : rows_(vocab_size) {}
  std::array<int32_t, kSuccessors>& operator[](int32_t token) { return rows_[token]; }

 private:
  std::vector<std::array<int32_t, kSuccessors>> rows_;  // of zeros
};

// Token Recycling (arXiv 2408.08696): a static tree over the table's ranks, and every node, right or wrong,
// overwrites its token's row. The paper gives one tree of 80 nodes; here it is, at every size, the best for
// rates of acceptance by rank that are assumed, not measured: levels of 8, 21, 28, 13, 9, 1 at 80 nodes for
// their 8, 21, 25, 15, 8, 3 (baseline_drafters.cc).
class TokenRecyclingDrafter final : public Drafter {
 public:
  struct TemplateNode {
    int32_t parent, rank;
  };

  // `table` outlives the drafter.
  explicit TokenRecyclingDrafter(RecyclingTable* table) : table_(table) {}

  void Extend(std::span<const int32_t> tokens) override { newest_ = tokens.back(); }
  void Draft(int32_t max_nodes, DraftTree& tree) override;
  void Trim(int32_t max_nodes, DraftTree& tree) override { KeepFirst(max_nodes, tree); }
  void Observe(const DraftTree& tree, const NodeLogits& logits, const Accepted& accepted) override;
  void Offer(ContinuationSource::Answer) override {}
  bool WantsAnswer() const override { return false; }

 private:
  RecyclingTable* const table_;
  std::vector<TemplateNode> template_;
  int32_t newest_ = 0;
};

}  // namespace clamor
