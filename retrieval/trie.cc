#include "retrieval/trie.h"

#include <algorithm>
#include <cstddef>
#include <queue>
#include <ranges>
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
  auto push_children = [&](size_t begin, size_t end, size_t depth, int32_t parent) {
    const auto range = std::ranges::subrange(continuations.begin() + static_cast<std::ptrdiff_t>(begin),
                                             continuations.begin() + static_cast<std::ptrdiff_t>(end));
    const auto longer = std::ranges::partition(range, [&](auto c) { return c.size() <= depth; });
    auto next_token = [&](auto c) { return c[depth]; };
    if (!std::ranges::is_sorted(longer, {}, next_token)) std::ranges::sort(longer, {}, next_token);
    begin = end - longer.size();
    while (begin < end) {
      const uint32_t token = continuations[begin][depth];
      const auto after = std::partition_point(continuations.begin() + begin, continuations.begin() + end,
                                              [&](auto c) { return c[depth] == token; });
      const size_t next = after - continuations.begin();
      candidates.push({begin, next, depth, parent});
      begin = next;
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
