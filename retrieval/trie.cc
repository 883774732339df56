#include "retrieval/trie.h"

#include <algorithm>
#include <cstddef>
#include <queue>
#include <tuple>

namespace clamor::retrieval {
namespace {

// A node that may still be chosen. Continuations that share a prefix are neighbours, so a node is a range of
// them; within a depth, ranges that begin earlier are lower paths.
struct Candidate {
  size_t begin, end;
  size_t depth;  // of its token, from 0
  int32_t parent;

  bool operator<(const Candidate& other) const {  // worse: std::priority_queue pops the greatest
    return std::tuple(end - begin, other.depth, other.begin) <
           std::tuple(other.end - other.begin, depth, begin);
  }
};

}  // namespace

std::vector<Trie::Node> BuildTrie(std::vector<std::span<const uint32_t>>& continuations, int32_t max_nodes,
                                  int32_t max_depth) {
  for (auto& continuation : continuations) {
    continuation = continuation.first(std::min<size_t>(continuation.size(), max_depth));
  }

  std::priority_queue<Candidate> candidates;
  // Sorts what goes on behind a node by the next token, once the node is chosen: most never are.
  std::vector<uint64_t> keys;  // next token and 1, then which it is; what ends here comes first
  std::vector<std::span<const uint32_t>> sorted;
  auto push_children = [&](size_t begin, size_t end, size_t depth, int32_t parent) {
    if (end - begin == 1) {  // the most frequent case
      if (continuations[begin].size() > depth) candidates.push({begin, end, depth, parent});
      return;
    }
    keys.clear();
    for (size_t i = begin; i < end; ++i) {
      const uint64_t next = continuations[i].size() > depth ? uint64_t{continuations[i][depth]} + 1 : 0;
      keys.push_back(next << 32 | i);
    }
    if (!std::ranges::is_sorted(keys)) {
      std::ranges::sort(keys);
      sorted.clear();
      for (const uint64_t key : keys) sorted.push_back(continuations[static_cast<uint32_t>(key)]);
      std::ranges::copy(sorted, continuations.begin() + static_cast<std::ptrdiff_t>(begin));
    }
    for (size_t i = begin, next = i; i < end; i = next) {
      const uint64_t token = keys[i - begin] >> 32;
      while (next < end && keys[next - begin] >> 32 == token) ++next;
      if (token > 0) candidates.push({i, next, depth, parent});
    }
  };

  std::vector<Trie::Node> nodes;
  push_children(0, continuations.size(), 0, -1);
  while (!candidates.empty() && nodes.size() < static_cast<size_t>(max_nodes)) {
    const Candidate best = candidates.top();
    candidates.pop();
    nodes.push_back(
        {continuations[best.begin][best.depth], best.parent, static_cast<uint32_t>(best.end - best.begin)});
    push_children(best.begin, best.end, best.depth + 1, static_cast<int32_t>(nodes.size() - 1));
  }
  return nodes;
}

}  // namespace clamor::retrieval
