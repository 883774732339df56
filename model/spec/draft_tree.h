// The guesses of one step for one sequence, and what the model said of them.
//
// Verification is a value: Verify changes nothing, Engine::Commit applies it.
// Tested by tests/model/spec/draft_tree_test.cc.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "model/spec/source.h"

namespace clamor {

struct DraftNode {
  int32_t token = 0;
  int32_t parent = -1;            // index into nodes; -1 for the root only
  int32_t depth = 0;              // of the root: 0
  Source source = Source::kNone;  // the best of those that proposed it
  float survival = 1;             // estimated probability that the node is on the accepted path
};

// Node 0 is the root, the newest token of the text: it is certain, but the model has not read it yet.
// Children stand after their parents. Siblings may carry equal tokens (the published template does not merge
// them).
struct DraftTree {
  std::vector<DraftNode> nodes;

  int32_t drafted() const { return static_cast<int32_t>(nodes.size()) - 1; }
  void Reset(int32_t root_token) { nodes.assign(1, DraftNode{.token = root_token}); }
  // Appends a child and returns its index.
  int32_t Add(int32_t token, int32_t parent, Source source, float survival = 0);
  // Makes `path` the tokens of the guesses down to `node`, itself included; none for the root.
  void PathTo(int32_t node, std::vector<int32_t>& path) const;
  // INTERNAL names the first node that breaks the rules above.
  absl::Status CheckIntegrity() const;
};

// The accepted part of a tree.
struct Accepted {
  std::vector<int32_t> path;  // nodes below the root, top down; empty: no guess was right
  int32_t next = 0;           // the model's own token after the path: the new root
};

// Descends from the root while a child's token equals `target(node)`, the model's token after that node.
// Where equal siblings match, the deepest accepted path wins, then the one whose node came first. `target` is
// called once for every matched node.
void Verify(const DraftTree& tree, absl::FunctionRef<int32_t(int32_t node)> target, Accepted& accepted);

}  // namespace clamor
