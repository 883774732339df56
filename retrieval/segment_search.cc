// Lookups in a segment; segment.cc makes and checks one.
#include <algorithm>
#include <array>
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
  // Only the documents that begin in the block, and the one before.
  const size_t block = position / kBlock, last = documents_.size() - 1;
  const size_t begin = first_documents_[block],
               end = block + 1 < first_documents_.size() ? first_documents_[block + 1] : last;
  const auto after =
      std::ranges::upper_bound(documents_.subspan(begin, end + 1 - begin), position, {}, &Document::start);
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

// The first entry of `order` whose place compares to `context` as `at_least` (0 or 1) or above.
size_t Segment::FirstPlace(std::span<const uint32_t> context, int at_least) const {
  // Signs tell on which side of the context a span begins, or that it begins with the context's last two
  // tokens.
  auto compare = [&](uint64_t sign) {
    const std::array<uint32_t, 2> tokens = {static_cast<uint32_t>(sign >> 32), static_cast<uint32_t>(sign)};
    for (size_t i = 0; i < std::min<size_t>(context.size(), 2); ++i) {
      const uint32_t wanted = context[context.size() - 1 - i];
      if (tokens[i] != wanted) return tokens[i] < wanted ? -1 : 1;
    }
    return 0;
  };
  const auto first = std::ranges::partition_point(signs_, [&](uint64_t sign) { return compare(sign) < 0; });
  const auto last =
      std::partition_point(first, signs_.end(), [&](uint64_t sign) { return compare(sign) <= 0; });
  const size_t begin = first == signs_.begin() ? 0 : (first - signs_.begin() - 1) * size_t{kSpan};
  const size_t end = std::min<size_t>((last - signs_.begin()) * size_t{kSpan}, order_.size());
  const auto found = std::partition_point(order_.begin() + begin, order_.begin() + end, [&](uint32_t entry) {
    return CompareContext(Bounded(entry), context) < at_least;
  });
  return found - order_.begin();
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
  // The longest matches are next to where the context would stand, and get shorter away from it on both
  // sides.
  size_t left = FirstPlace(context, 0), right = left;  // next: left - 1 and right
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
  const size_t begin = FirstPlace(suffix, 0), end = FirstPlace(suffix, 1);

  // A higher position is a newer place: keep the `limit` highest, the lowest of them on top. A common suffix
  // has many more places than that; the peaks pass over blocks that hold none of the highest.
  std::vector<uint32_t> newest;
  uint32_t floor = first->start;  // what is not above it is too old
  for (size_t i = begin; i < end; ++i) {
    if (i % kSpan == 0 && i + kSpan <= end && peaks_[i / kSpan] <= floor) {
      i += kSpan - 1;
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
    out.push_back(
        {document->number, position - document->start, text_.subspan(position, std::min(rest, depth))});
  }
}

}  // namespace clamor::retrieval
