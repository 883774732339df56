#include "retrieval/trie.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
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
  const auto count = static_cast<uint32_t>(continuations.size());
  const auto most = static_cast<size_t>(max_nodes);

  // Which continuation comes where: what shares a prefix are neighbours, in the order in which they came.
  std::vector<uint32_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::vector<Candidate> room;
  room.reserve(count + most);
  std::priority_queue<Candidate> candidates({}, std::move(room));
  // The next token of a continuation and 1 above the number of it; what ends here has 0, and comes first.
  std::vector<uint64_t> keys(count);
  auto key = [&](uint32_t continuation, uint32_t depth) {
    const TokenRun& run = continuations[continuation];
    const uint32_t token = depth < run.size() ? run[depth] : kEndMark;
    return (uint64_t{token} + 1) << 32 | continuation;  // an end mark and 1 leave nothing
  };
  // Sorts what goes on behind a node by the next token, once the node is chosen: most never are.
  auto push_children = [&](uint32_t begin, uint32_t end, uint32_t depth, int32_t parent) {
    const uint32_t size = end - begin;
    bool sorted = true;
    for (uint32_t i = 0; i < size; ++i) {
      keys[i] = key(order[begin + i], depth);
      sorted = sorted && (i == 0 || keys[i - 1] < keys[i]);
    }
    if (!sorted) {
      std::sort(keys.begin(), keys.begin() + size);
      for (uint32_t i = 0; i < size; ++i) order[begin + i] = static_cast<uint32_t>(keys[i]);
    }
    for (uint32_t i = 0, next = 0; i < size; i = next) {
      const uint64_t token = keys[i] >> 32;
      while (next < size && keys[next] >> 32 == token) ++next;
      if (token > 0) candidates.push({begin + i, next - i, depth, parent});
    }
  };

  std::vector<Trie::Node> nodes;
  nodes.reserve(most);
  push_children(0, count, 0, -1);
  while (!candidates.empty()) {
    const Candidate best = candidates.top();
    candidates.pop();
    nodes.push_back({continuations[order[best.begin()]][best.depth()], best.parent(), best.size()});
    if (nodes.size() >= most) break;
    push_children(best.begin(), best.begin() + best.size(), best.depth() + 1,
                  static_cast<int32_t>(nodes.size() - 1));
  }
  return nodes;
}

}  // namespace clamor::retrieval
