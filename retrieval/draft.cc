#include "retrieval/draft.h"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "retrieval/key_codec.h"

namespace clamor::retrieval {
namespace {

absl::Status CheckRange(const char* field, int32_t value, int32_t high) {
  if (value >= 1 && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, ", must be 1 to ", high));
}

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
  uint32_t length = options.min_match - 1;  // only a longer match counts
  for (const Part& part : parts) length = part.segment->LongestMatch(context, length, part.dead.get());
  Trie trie;
  if (length < static_cast<uint32_t>(options.min_match)) return trie;

  // From the part with the newest document on: once there are enough, documents older than all of them cannot
  // count.
  std::vector<const Part*> newest_first;
  for (const Part& part : parts) newest_first.push_back(&part);
  std::ranges::sort(newest_first, std::greater(),
                    [](const Part* part) { return part->segment->documents().back().number; });
  const size_t limit = options.max_occurrences;
  uint64_t oldest = 0;
  std::vector<Segment::Occurrence> occurrences;
  for (const Part* part : newest_first) {
    part->segment->FindOccurrences(context.last(length), limit, options.max_depth, oldest, part->dead.get(),
                                   occurrences);
    if (occurrences.size() < limit) continue;
    const auto last = occurrences.begin() + static_cast<std::ptrdiff_t>(limit) - 1;
    std::ranges::nth_element(occurrences, last, [](const auto& a, const auto& b) {
      return std::tuple(a.number, a.position) > std::tuple(b.number, b.position);
    });
    occurrences.resize(limit);
    oldest = occurrences.back().number;
  }
  std::vector<std::span<const uint32_t>> continuations;
  for (const Segment::Occurrence& occurrence : occurrences) {
    // The first look at this text: what is not among the newest is not brought into memory.
    const std::span<const uint32_t> following = occurrence.continuation;
    const auto stop = std::ranges::find_if(following, [](uint32_t token) { return token >= kTokenLimit; });
    continuations.push_back({following.begin(), stop});
  }
  trie.match_length = static_cast<int32_t>(length);
  trie.occurrences = static_cast<uint32_t>(occurrences.size());
  trie.nodes = BuildTrie(continuations, options.max_nodes, options.max_depth);
  return trie;
}

}  // namespace clamor::retrieval
