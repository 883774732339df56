#include "retrieval/place_sort.h"

#include <algorithm>
#include <compare>
#include <utility>
#include <vector>

#include "retrieval/place_order.h"
#include "retrieval/segment.h"

namespace clamor::retrieval {
namespace {

// While a round runs, marks in the upper bits of a place: it begins a new group; its group cannot be split
// further, as a document begins before its last token was compared.
constexpr uint32_t kBegins = 1u << 31, kEnded = 1u << 30;

// What a position without a token before it ranks: after all others, like the end mark that it follows.
constexpr uint32_t kNothingBefore = ~0u;

// Places [begin, end) that compare equal so far.
struct Group {
  uint32_t begin, end;
};

class PlaceSorter {
 public:
  PlaceSorter(const TokenText& text, std::span<uint32_t> places)
      : text_(text), places_(places), rank_(text.size(), kNothingBefore) {}

  void Run() {
    uint32_t known = std::min(text_.per_key(), kMaxMatch);  // tokens that tell places apart by now
    SortByKey();
    Rank({{0, static_cast<uint32_t>(places_.size())}});
    for (uint32_t distance; known < kMaxMatch && !groups_.empty(); known += distance) {
      distance = std::min(known, kMaxMatch - known);
      for (const Group& group : groups_) Split(group, distance);
      Rank(std::exchange(groups_, {}));
    }
  }

 private:
  void SortByKey() {
    struct Keyed {
      uint64_t key;
      uint32_t newest_first;
      bool ended;
      auto operator<=>(const Keyed&) const = default;
    };
    std::vector<Keyed> keyed;
    keyed.reserve(places_.size());
    for (const uint32_t place : places_) {
      const Place made = MakePlace(text_, place);
      keyed.push_back({made.key, ~place, made.before < text_.per_key()});
    }
    std::ranges::sort(keyed);
    for (size_t i = 0; i < keyed.size(); ++i) {
      const bool begins = i == 0 || keyed[i].key != keyed[i - 1].key;
      places_[i] = ~keyed[i].newest_first | (begins ? kBegins : 0) | (keyed[i].ended ? kEnded : 0);
    }
  }

  // Sorts a group by the ranks of the places `distance` tokens before, then newest first, and marks where its
  // parts begin. Reads ranks, changes none.
  void Split(const Group& group, uint32_t distance) {
    keyed_.clear();
    for (uint32_t i = group.begin; i < group.end; ++i) {
      const uint32_t place = places_[i];
      keyed_.push_back(uint64_t{rank_[place - distance]} << 32 | static_cast<uint32_t>(~place));
    }
    std::ranges::sort(keyed_);
    for (size_t i = 0; i < keyed_.size(); ++i) {
      const uint64_t rank = keyed_[i] >> 32;
      const bool begins = i == 0 || rank != keyed_[i - 1] >> 32;
      // A rank's lowest bit says that its group has ended: so has a group that is split by it.
      places_[group.begin + i] =
          ~static_cast<uint32_t>(keyed_[i]) | (begins ? kBegins : 0) | (rank & 1 ? kEnded : 0);
    }
  }

  // Takes the marks off again, gives the parts of `split` their ranks, and makes groups of those that can be
  // split further.
  void Rank(const std::vector<Group>& split) {
    for (const Group& group : split) {
      for (uint32_t begin = group.begin, end = begin; begin < group.end; begin = end) {
        const bool ended = (places_[begin] & kEnded) != 0;
        for (end = begin; end == begin || (end < group.end && (places_[end] & kBegins) == 0); ++end) {
          places_[end] &= ~(kBegins | kEnded);
          rank_[places_[end]] = begin << 1 | (ended ? 1 : 0);
        }
        if (!ended && end - begin > 1) groups_.push_back({begin, end});
      }
    }
  }

  const TokenText& text_;
  const std::span<uint32_t> places_;
  std::vector<uint32_t>
      rank_;  // of each position that is a place: where its group begins, twice, plus `ended`
  std::vector<Group> groups_;    // to be split
  std::vector<uint64_t> keyed_;  // of the group being split: key, then the place inverted
};

}  // namespace

void SortPlaces(const TokenText& text, std::span<uint32_t> places) {
  if (places.empty()) return;
  PlaceSorter(text, places).Run();
}

}  // namespace clamor::retrieval
