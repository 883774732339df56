#include "bench/drafting/baseline_drafters.h"

#include <algorithm>
#include <queue>
#include <utility>

namespace clamor {
namespace {

constexpr int64_t kLongestMatch = 3;

// How often the successor of each rank is taken to be right: falling as in the paper's tree, not measured.
constexpr float kRankRates[RecyclingTable::kSuccessors] = {0.5f,   0.13f,  0.07f,  0.045f,
                                                           0.032f, 0.024f, 0.019f, 0.016f};
constexpr int32_t kDeepest = 6;

using TemplateNode = TokenRecyclingDrafter::TemplateNode;

// The root and the `nodes` nodes with the highest product of rates, parents first.
std::vector<TemplateNode> MakeTemplate(int32_t nodes) {
  struct Candidate {
    float rate;
    int32_t parent, rank, depth;
    bool operator<(const Candidate& other) const { return rate < other.rate; }
  };
  std::priority_queue<Candidate> candidates;
  const auto expand = [&](float rate, int32_t parent, int32_t depth) {
    for (int32_t rank = 0; depth < kDeepest && rank < RecyclingTable::kSuccessors; ++rank) {
      candidates.push({rate * kRankRates[rank], parent, rank, depth + 1});
    }
  };
  std::vector<TemplateNode> chosen = {{-1, 0}};
  expand(1, 0, 0);
  while (static_cast<int32_t>(chosen.size()) <= nodes && !candidates.empty()) {
    const Candidate best = candidates.top();
    candidates.pop();
    chosen.push_back({best.parent, best.rank});
    expand(best.rate, static_cast<int32_t>(chosen.size()) - 1, best.depth);
  }
  return chosen;
}

}  // namespace

void PromptLookupDrafter::Extend(std::span<const int32_t> tokens) {
  text_.insert(text_.end(), tokens.begin(), tokens.end());
}

void PromptLookupDrafter::Draft(int32_t max_nodes, DraftTree& tree) {
  tree.Reset(text_.back());
  const int64_t size = static_cast<int64_t>(text_.size());
  for (int64_t n = std::min(kLongestMatch, size - 1); n > 0; --n) {
    const auto place = std::search(text_.begin(), text_.end() - 1, text_.end() - n, text_.end());
    if (place == text_.end() - 1) continue;
    int32_t node = 0;
    for (auto next = place + n; next != text_.end() && tree.drafted() < max_nodes; ++next) {
      node = tree.Add(*next, node, Source::kContext);
    }
    return;
  }
}

void TokenRecyclingDrafter::Draft(int32_t max_nodes, DraftTree& tree) {
  if (static_cast<int32_t>(template_.size()) != max_nodes + 1) template_ = MakeTemplate(max_nodes);
  tree.Reset(newest_);
  for (size_t i = 1; i < template_.size(); ++i) {
    const auto [parent, rank] = template_[i];
    tree.Add((*table_)[tree.nodes[parent].token][rank], parent, Source::kAdjacency);
  }
}

void TokenRecyclingDrafter::Observe(const DraftTree& tree, const NodeLogits& logits, const Accepted&) {
  for (int32_t i = 0; i < static_cast<int32_t>(tree.nodes.size()); ++i) {
    const auto ids = logits.Ids(i);
    if (ids[0] < 0) continue;
    std::copy_n(ids.begin(), RecyclingTable::kSuccessors, (*table_)[tree.nodes[i].token].begin());
  }
}

}  // namespace clamor
