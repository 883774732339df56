// Lookups in a segment; segment.cc makes and checks it.
#include <algorithm>
#include <functional>

#include "retrieval/key_codec.h"
#include "retrieval/place_order.h"
#include "retrieval/segment.h"

namespace clamor::retrieval {

std::optional<size_t> Segment::Find(uint64_t number) const {
  const auto found = std::ranges::lower_bound(documents_, number, {}, &Document::number);
  if (found == documents_.end() || found->number != number) return std::nullopt;
  return found - documents_.begin();
}

// 0 is no place, so that an entry out of the text is none either.
uint32_t Segment::Bounded(uint32_t entry) const { return entry < text_.size() ? entry : 0; }

const Segment::Document* Segment::LiveDocumentAt(uint32_t position, const DeadSet* dead) const {
  const auto after = std::ranges::upper_bound(documents_, position, {}, &Document::start);
  if (after == documents_.begin()) return nullptr;
  const auto document = after - 1;
  if (position <= document->start || position >= document->start + document->size) return nullptr;
  if (dead != nullptr && (*dead)[document - documents_.begin()]) return nullptr;
  return &*document;
}

// Below, at or above the places before which `context` stands.
int Segment::CompareContext(uint32_t position, std::span<const uint32_t> context) const {
  for (size_t i = 0; i < context.size(); ++i) {
    const uint32_t token = i < position ? text_[position - 1 - i] : kEndMark;
    const uint32_t wanted = context[context.size() - 1 - i];
    if (token != wanted) return token < wanted ? -1 : 1;
  }
  return 0;
}

uint32_t Segment::CommonLength(uint32_t position, std::span<const uint32_t> context) const {
  const size_t limit = std::min<size_t>(position, context.size());
  uint32_t length = 0;
  while (length < limit && text_[position - 1 - length] == context[context.size() - 1 - length]) ++length;
  return length;
}

uint32_t Segment::LongestMatch(std::span<const uint32_t> context, uint32_t at_least,
                               const DeadSet* dead) const {
  if (context.size() > kMaxMatch) context = context.last(kMaxMatch);
  const auto split = std::ranges::partition_point(
      order_, [&](uint32_t entry) { return CompareContext(Bounded(entry), context) < 0; });
  // The longest matches are next to where the context would stand, and get shorter away from it on both
  // sides.
  size_t left = split - order_.begin(), right = left;  // next: left - 1 and right
  auto left_length = [&] { return left > 0 ? CommonLength(Bounded(order_[left - 1]), context) : 0; };
  auto right_length = [&] {
    return right < order_.size() ? CommonLength(Bounded(order_[right]), context) : 0;
  };
  uint32_t before = left_length(), behind = right_length();
  while (std::max(before, behind) > at_least) {
    const bool go_left = before > behind;
    const uint32_t entry = order_[go_left ? left - 1 : right];
    if (LiveDocumentAt(Bounded(entry), dead) != nullptr) return go_left ? before : behind;
    if (go_left) {
      --left;
      before = left_length();
    } else {
      ++right;
      behind = right_length();
    }
  }
  return at_least;
}

void Segment::FindOccurrences(std::span<const uint32_t> suffix, size_t limit, size_t depth, uint64_t oldest,
                              const DeadSet* dead, std::vector<Occurrence>& out) const {
  const auto first = std::ranges::lower_bound(documents_, oldest, {}, &Document::number);
  if (first == documents_.end()) return;
  auto edge = [&](int below) {
    const auto at = std::ranges::partition_point(
        order_, [&](uint32_t entry) { return CompareContext(Bounded(entry), suffix) < below; });
    return static_cast<size_t>(at - order_.begin());
  };
  const size_t begin = edge(0), end = edge(1);

  // A higher position is a newer place: keep the `limit` highest, the lowest of them on top. A common suffix
  // has many more places than that; the peaks pass over blocks that hold none of the highest.
  std::vector<uint32_t> newest;
  uint32_t floor = first->start;  // what is not above it is too old
  for (size_t i = begin; i < end; ++i) {
    if (i % kPeakSpan == 0 && i + kPeakSpan <= end && peaks_[i / kPeakSpan] <= floor) {
      i += kPeakSpan - 1;
      continue;
    }
    const uint32_t position = Bounded(order_[i]);
    if (position <= floor) continue;
    if (dead != nullptr && LiveDocumentAt(position, dead) == nullptr) continue;
    if (newest.size() == limit) {
      std::ranges::pop_heap(newest, std::greater());
      newest.pop_back();
    }
    newest.push_back(position);
    std::ranges::push_heap(newest, std::greater());
    if (newest.size() == limit) floor = newest.front();
  }
  for (const uint32_t position : newest) {
    const Document* document = LiveDocumentAt(position, nullptr);
    if (document == nullptr) continue;  // a damaged entry
    const size_t rest = document->start + document->size - position;
    const auto following = text_.subspan(position, std::min(rest, depth));
    const auto stop = std::ranges::find_if(following, [](uint32_t token) { return token >= kTokenLimit; });
    out.push_back({document->number, position - document->start, {following.begin(), stop}});
  }
}

}  // namespace clamor::retrieval
