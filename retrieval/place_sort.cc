#include "retrieval/place_sort.h"

#include <algorithm>
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
    groups_.push_back({0, static_cast<uint32_t>(places_.size())});
    SplitGroups([&](uint32_t place) { return Key{text_.Code(place - 1), false}; });
    for (uint32_t distance = 1; distance < kMaxMatch && !groups_.empty(); distance *= 2) {
      // A rank's lowest bit says that its group has ended: so has a group that is split by it.
      SplitGroups([&](uint32_t place) {
        const uint32_t rank = rank_[place - distance];
        return Key{rank, (rank & 1) != 0};
      });
    }
  }

 private:
  struct Key {
    uint32_t value;
    bool ended;
  };

  template <typename KeyOf>
  void SplitGroups(KeyOf key_of) {
    for (const Group& group : groups_) Split(group, key_of);
    std::vector<Group> next;
    for (const Group& group : groups_) Rank(group, next);
    groups_ = std::move(next);
  }

  // Sorts a group by key, then newest first, and marks where its parts begin. Reads ranks, changes none.
  template <typename KeyOf>
  void Split(const Group& group, KeyOf key_of) {
    keyed_.clear();
    for (uint32_t i = group.begin; i < group.end; ++i) {
      const uint32_t place = places_[i];
      keyed_.push_back(uint64_t{key_of(place).value} << 32 | static_cast<uint32_t>(~place));
    }
    std::ranges::sort(keyed_);
    for (size_t i = 0; i < keyed_.size(); ++i) {
      const auto place = ~static_cast<uint32_t>(keyed_[i]);
      const bool begins = i == 0 || keyed_[i] >> 32 != keyed_[i - 1] >> 32;
      places_[group.begin + i] =
          place | (begins ? kBegins : 0) | (begins && key_of(place).ended ? kEnded : 0);
    }
  }

  // Takes the marks off again, gives the parts their ranks and adds those that can be split further to
  // `next`.
  void Rank(const Group& group, std::vector<Group>& next) {
    for (uint32_t begin = group.begin, end = begin; begin < group.end; begin = end) {
      const bool ended = (places_[begin] & kEnded) != 0;
      for (end = begin; end == begin || (end < group.end && (places_[end] & kBegins) == 0); ++end) {
        places_[end] &= ~(kBegins | kEnded);
        rank_[places_[end]] = begin << 1 | (ended ? 1 : 0);
      }
      if (!ended && end - begin > 1) next.push_back({begin, end});
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
