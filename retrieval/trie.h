// A trie of continuations with counts: what a draft is made of.
//
// Tested by tests/retrieval/trie_test.cc, against a trie that holds every path.
#pragma once

#include <cstdint>
#include <vector>

#include "retrieval/token_text.h"

namespace clamor::retrieval {

// Continuations of one query, children after parents.
struct Trie {
  struct Node {
    uint32_t token;
    int32_t parent;  // index into nodes, -1: follows the query directly
    uint32_t count;  // how many of `total` occurrences went this way, >= 1
    // Of Draft; BuildTrie leaves them 0. Examined occurrences of the longest suffix that was seen to go this
    // way, with the path before this node behind it; and the tokens of both.
    uint32_t total = 0;
    int32_t match_length = 0;
    bool operator==(const Node&) const = default;
  };
  int32_t match_length = 0;  // tokens of the query's end that matched; 0: no match, no nodes
  uint32_t occurrences = 0;  // examined occurrences of the match
  // Those of the longest match, then what shorter ones add; of each by count, then the shallower, then the
  // lower path in lexicographic order.
  std::vector<Node> nodes;
  bool operator==(const Trie&) const = default;
};

// The first `max_nodes` nodes, in the order of Trie::nodes, of the trie of all prefixes of `continuations` up
// to `max_depth` tokens, of which none is in a node from an end mark on; a node's count is the number of
// continuations that pass through it. A parent comes before its children in that order, so that the nodes are
// always connected. Cost: for each node a sort, by one token, of the continuations that pass through it.
// REQUIRES: max_nodes and max_depth as in DraftOptions, at most 2^20 continuations.
std::vector<Trie::Node> BuildTrie(std::vector<TokenRun> continuations, int32_t max_nodes, int32_t max_depth);

}  // namespace clamor::retrieval
