#include "model/spec/draft_tree.h"

#include <algorithm>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"

namespace clamor {

int32_t DraftTree::Add(int32_t token, int32_t parent, Source source, float survival) {
  nodes.push_back({.token = token,
                   .parent = parent,
                   .depth = nodes[parent].depth + 1,
                   .source = source,
                   .survival = survival});
  return static_cast<int32_t>(nodes.size()) - 1;
}

void DraftTree::PathTo(int32_t node, std::vector<int32_t>& path) const {
  path.resize(nodes[node].depth);
  for (int32_t i = node; nodes[i].depth > 0; i = nodes[i].parent) path[nodes[i].depth - 1] = nodes[i].token;
}

absl::Status DraftTree::CheckIntegrity() const {
  if (nodes.empty()) return absl::InternalError("draft tree has no root");
  for (int32_t i = 0; i < static_cast<int32_t>(nodes.size()); ++i) {
    const DraftNode& node = nodes[i];
    const bool root = i == 0;
    if (root ? node.parent != -1 || node.depth != 0 : node.parent < 0 || node.parent >= i) {
      return absl::InternalError(absl::StrCat("draft tree node ", i, " has parent ", node.parent));
    }
    if (!root && node.depth != nodes[node.parent].depth + 1) {
      return absl::InternalError(absl::StrCat("draft tree node ", i, " has depth ", node.depth,
                                              ", its parent ", nodes[node.parent].depth));
    }
  }
  return absl::OkStatus();
}

void Verify(const DraftTree& tree, absl::FunctionRef<int32_t(int32_t node)> target, Accepted& accepted) {
  struct Match {
    int32_t node;
    int32_t target;
  };
  // Matched nodes so far, in node order. Few: one a depth, but for equal siblings.
  absl::InlinedVector<Match, 32> matched = {{0, target(0)}};
  Match deepest = matched[0];
  for (int32_t i = 1; i < static_cast<int32_t>(tree.nodes.size()); ++i) {
    const DraftNode& node = tree.nodes[i];
    const auto parent =
        std::find_if(matched.begin(), matched.end(), [&](const Match& m) { return m.node == node.parent; });
    if (parent == matched.end() || parent->target != node.token) continue;
    matched.push_back({i, target(i)});
    if (node.depth > tree.nodes[deepest.node].depth) deepest = matched.back();
  }
  accepted.next = deepest.target;
  accepted.path.clear();
  for (int32_t i = deepest.node; i > 0; i = tree.nodes[i].parent) accepted.path.push_back(i);
  std::reverse(accepted.path.begin(), accepted.path.end());
}

}  // namespace clamor
