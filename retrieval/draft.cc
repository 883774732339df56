#include "retrieval/draft.h"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "retrieval/key_codec.h"

namespace clamor::retrieval {
namespace {

absl::Status CheckRange(const char* field, int32_t value, int32_t high) {
  if (value >= 1 && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, ", must be 1 to ", high));
}

// The newest occurrences of `suffix`; `searches` in the parts go on to it. From the parts with the newest
// documents on: once there are enough, documents older than all of them cannot count.
std::vector<Segment::Occurrence> NewestOccurrences(std::span<const Part* const> newest_first,
                                                   std::span<Segment::Search> searches,
                                                   std::span<const uint32_t> suffix,
                                                   const DraftOptions& options) {
  const size_t limit = options.max_occurrences;
  uint64_t oldest = 0;
  std::vector<Segment::Occurrence> occurrences;
  for (size_t i = 0; i < newest_first.size(); ++i) {
    const auto& [segment, dead, dead_tokens] = *newest_first[i];
    if (segment->documents().back().number < oldest) break;  // so are the rest
    segment->GoOn(suffix, searches[i]);
    segment->FindOccurrences(searches[i], limit, options.max_depth, oldest, dead.get(), occurrences);
    if (occurrences.size() < limit) continue;
    const auto last = occurrences.begin() + static_cast<std::ptrdiff_t>(limit) - 1;
    std::ranges::nth_element(occurrences, last, [](const auto& a, const auto& b) {
      return std::tuple(a.number, a.position) > std::tuple(b.number, b.position);
    });
    occurrences.resize(limit);
    oldest = occurrences.back().number;
  }
  return occurrences;
}

// Grows a trie by what matches of falling length saw.
class Merger {
 public:
  Merger(Trie* trie, size_t max_nodes) : nodes_(trie->nodes), max_nodes_(max_nodes) {}

  // Nodes of `seen`, which followed `occurrences` of a match of `length`, as far as they are new and there is
  // room for them.
  void Add(const std::vector<Trie::Node>& seen, uint32_t occurrences, int32_t length) {
    struct Place {
      int32_t index;  // in nodes_, or kNone
      int32_t depth;
    };
    const bool first = nodes_.empty();  // all are new
    if (!first && children_.empty()) IndexNodes();
    std::vector<Place> places;
    places.reserve(seen.size());
    for (const Trie::Node& node : seen) {
      const Place parent = node.parent < 0 ? Place{-1, -1} : places[node.parent];
      places.push_back({kNone, parent.depth + 1});
      if (parent.index == kNone) continue;
      const std::pair<int32_t, uint32_t> key = {parent.index, node.token};
      if (!first) {
        if (const auto child = children_.find(key); child != children_.end()) {
          places.back().index = child->second;
          continue;
        }
      }
      if (nodes_.size() == max_nodes_) continue;
      places.back().index = static_cast<int32_t>(nodes_.size());
      if (!first) children_[key] = places.back().index;
      nodes_.push_back({.token = node.token,
                        .parent = parent.index,
                        .count = node.count,
                        .total = node.parent < 0 ? occurrences : seen[node.parent].count,
                        .match_length = length + parent.depth + 1});
    }
  }

 private:
  static constexpr int32_t kNone = -2;

  void IndexNodes() {
    children_.reserve(max_nodes_);
    for (size_t i = 0; i < nodes_.size(); ++i)
      children_[{nodes_[i].parent, nodes_[i].token}] = static_cast<int32_t>(i);
  }

  std::vector<Trie::Node>& nodes_;
  const size_t max_nodes_;
  absl::flat_hash_map<std::pair<int32_t, uint32_t>, int32_t> children_;  // (parent, token) -> index
};

}  // namespace

absl::Status DraftOptions::Validate() const {
  CLAMOR_RETURN_IF_ERROR(CheckRange("max_match", max_match, kMaxMatch));
  CLAMOR_RETURN_IF_ERROR(CheckRange("min_match", min_match, max_match));
  CLAMOR_RETURN_IF_ERROR(CheckRange("max_nodes", max_nodes, 1024));
  CLAMOR_RETURN_IF_ERROR(CheckRange("max_depth", max_depth, 256));
  return CheckRange("max_occurrences", max_occurrences, 4096);
}

Trie Draft(const Parts& parts, std::span<const uint32_t> context, const DraftOptions& options) {
  context = context.last(std::min<size_t>(context.size(), options.max_match));
  std::vector<const Part*> newest_first;
  for (const Part& part : parts) newest_first.push_back(&part);
  std::ranges::sort(newest_first, std::greater(),
                    [](const Part* part) { return part->segment->documents().back().number; });
  std::vector<const Segment*> segments;
  for (const Part* part : newest_first) segments.push_back(part->segment.get());
  std::vector<Segment::Search> searches = Segment::Begin(segments, context);
  uint32_t longest = options.min_match - 1;  // only a longer match counts
  for (size_t i = 0; i < newest_first.size(); ++i)
    longest = segments[i]->LongestMatch(context, searches[i], longest, newest_first[i]->dead.get());
  Trie trie;
  if (longest < static_cast<uint32_t>(options.min_match)) return trie;
  trie.match_length = static_cast<int32_t>(longest);

  trie.nodes.reserve(options.max_nodes);
  Merger merger(&trie, options.max_nodes);
  for (uint32_t length = longest; length >= static_cast<uint32_t>(options.min_match); length /= 2) {
    const auto newest = NewestOccurrences(newest_first, searches, context.last(length), options);
    // The first look at these texts: what is not among the newest is not brought into memory.
    const size_t room = TokenText::WindowBytes(options.max_depth);
    const auto buffer = std::make_unique_for_overwrite<std::byte[]>(newest.size() * room);
    std::vector<TokenRun> continuations;
    continuations.reserve(newest.size());
    for (size_t i = 0; i < newest.size(); ++i)
      continuations.push_back(Segment::Continuation(newest[i], &buffer[i * room]));
    const uint32_t occurrences = static_cast<uint32_t>(continuations.size());
    if (length == longest) trie.occurrences = occurrences;
    merger.Add(BuildTrie(std::move(continuations), options.max_nodes, options.max_depth), occurrences,
               static_cast<int32_t>(length));
    if (trie.nodes.size() == static_cast<size_t>(options.max_nodes)) break;
  }
  return trie;
}

}  // namespace clamor::retrieval
