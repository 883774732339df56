#include "retrieval/trie.h"

#include <algorithm>
#include <cstddef>
#include <queue>

namespace clamor::retrieval {
namespace {

// A node that may still be chosen. Continuations that share a prefix are neighbours, so a node is a range of
// them; within a depth, ranges that begin earlier are lower paths.
class Candidate {
 public:
  Candidate(uint32_t begin, uint32_t size, uint32_t depth, int32_t parent)
      : rank_(uint64_t{size} << 40 | uint64_t{kMost - depth} << 20 | (kMost - begin)), parent_(parent) {}
  uint32_t begin() const { return kMost - (rank_ & kMost); }
  uint32_t size() const { return static_cast<uint32_t>(rank_ >> 40); }
  uint32_t depth() const { return kMost - (rank_ >> 20 & kMost); }  // of its token, from 0
  int32_t parent() const { return parent_; }
  bool operator<(const Candidate& other) const { return rank_ < other.rank_; }  // worse

 private:
  static constexpr uint32_t kMost = (1u << 20) - 1;
  uint64_t rank_;  // the more continuations, the shallower, the lower its path, the greater
  int32_t parent_;
};

}  // namespace

std::vector<Trie::Node> BuildTrie(std::vector<TokenRun> continuations, int32_t max_nodes, int32_t max_depth) {
  for (TokenRun& continuation : continuations) continuation.Shorten(static_cast<uint32_t>(max_depth));

  std::vector<Candidate> room;
  room.reserve(continuations.size() + max_nodes);
  std::priority_queue<Candidate> candidates({}, std::move(room));
  // The next token of continuation i and 1 above i; what ends here has 0, and comes first.
  auto key = [&](uint32_t i, uint32_t depth) {
    const uint32_t token = continuations[i].size() > depth ? continuations[i][depth] : kEndMark;
    return (uint64_t{token} + 1) << 32 | i;  // an end mark and 1 leave nothing
  };
  std::vector<uint64_t> keys;
  std::vector<TokenRun> sorted;
  keys.reserve(continuations.size());
  // Sorts what goes on behind a node by the next token, once the node is chosen: most never are.
  auto push_children = [&](uint32_t begin, uint32_t end, uint32_t depth, int32_t parent) {
    keys.clear();
    for (uint32_t i = begin; i < end; ++i) keys.push_back(key(i, depth));
    if (!std::ranges::is_sorted(keys)) {
      std::ranges::sort(keys);
      sorted.clear();
      for (const uint64_t each : keys) sorted.push_back(continuations[static_cast<uint32_t>(each)]);
      std::ranges::copy(sorted, continuations.begin() + begin);
    }
    for (uint32_t i = 0, next = 0; i < keys.size(); i = next) {
      const uint64_t token = keys[i] >> 32;
      while (next < keys.size() && keys[next] >> 32 == token) ++next;
      if (token > 0) candidates.push({begin + i, next - i, depth, parent});
    }
  };

  std::vector<Trie::Node> nodes;
  nodes.reserve(max_nodes);
  push_children(0, static_cast<uint32_t>(continuations.size()), 0, -1);
  while (!candidates.empty() && nodes.size() < static_cast<size_t>(max_nodes)) {
    const Candidate best = candidates.top();
    candidates.pop();
    nodes.push_back({continuations[best.begin()][best.depth()], best.parent(), best.size()});
    push_children(best.begin(), best.begin() + best.size(), best.depth() + 1,
                  static_cast<int32_t>(nodes.size() - 1));
  }
  return nodes;
}

}  // namespace clamor::retrieval
