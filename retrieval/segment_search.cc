// Lookups in a segment; segment.cc makes and checks one.
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

// The first and the last entry of `order` between which the signs say that the places of `context` begin and
// end.
std::pair<size_t, size_t> Segment::SignRange(std::span<const uint32_t> context) const {
  // Signs tell on which side of the context a span begins, or that it begins with the context's last tokens.
  auto compare = [&](const Sign& sign) {
    for (size_t i = 0; i < std::min(context.size(), sign.tokens.size()); ++i) {
      const uint32_t wanted = context[context.size() - 1 - i];
      if (sign.tokens[i] != wanted) return sign.tokens[i] < wanted ? -1 : 1;
    }
    return 0;
  };
  const auto first =
      std::ranges::partition_point(signs_, [&](const Sign& sign) { return compare(sign) < 0; });
  const auto last =
      std::partition_point(first, signs_.end(), [&](const Sign& sign) { return compare(sign) <= 0; });
  return {first == signs_.begin() ? 0 : (first - signs_.begin() - 1) * size_t{kSignSpan},
          std::min<size_t>((last - signs_.begin()) * size_t{kSignSpan}, order_.size())};
}

// Looks for the first entry of `order` whose place compares to `context` as `at_least` (0 or 1) or above: it
// is in [low, high].
struct Segment::Bisection {
  const Segment& segment;
  std::span<const uint32_t> context;
  int at_least;
  size_t low, high;

  size_t middle() const { return low + (high - low) / 2; }
  uint32_t position() const { return segment.Bounded(segment.order_[middle()]); }
};

// Until low equals high in all of them. What they look at next is on its way for all before it is looked at.
void Segment::Finish(std::span<Bisection> bisections) {
  for (bool going = true; going;) {
    going = false;
    for (const Bisection& each : bisections) {
      if (each.low < each.high) __builtin_prefetch(&each.segment.order_[each.middle()]);
    }
    for (const Bisection& each : bisections) {
      if (each.low < each.high) __builtin_prefetch(each.segment.text_.data() + each.position());
    }
    for (Bisection& each : bisections) {
      if (each.low == each.high) continue;
      const size_t middle = each.middle();
      const bool below = each.segment.CompareContext(each.position(), each.context) < each.at_least;
      (below ? each.low : each.high) = below ? middle + 1 : middle;
      going = true;
    }
  }
}

uint32_t Segment::CommonLength(uint32_t position, std::span<const uint32_t> context) const {
  const size_t limit = std::min<size_t>(position, context.size());
  uint32_t length = 0;
  while (length < limit && text_[position - 1 - length] == context[context.size() - 1 - length]) ++length;
  return length;
}

std::vector<Segment::Search> Segment::Begin(std::span<const Segment* const> segments,
                                            std::span<const uint32_t> context) {
  if (context.size() > kMaxMatch) context = context.last(kMaxMatch);
  std::vector<Bisection> bisections;
  for (const Segment* segment : segments) {
    const auto [low, high] = segment->SignRange(context);
    bisections.push_back({*segment, context, 0, low, high});
  }
  Finish(bisections);
  std::vector<Search> searches;
  for (const Bisection& found : bisections) {
    // The longest matches are next to where the context would stand.
    const Segment& segment = found.segment;
    const size_t at = found.low;
    const uint32_t before =
        at > 0 ? segment.CommonLength(segment.Bounded(segment.order_[at - 1]), context) : 0;
    const uint32_t behind =
        at < segment.order_.size() ? segment.CommonLength(segment.Bounded(segment.order_[at]), context) : 0;
    searches.push_back({std::max(before, behind), at, at});
  }
  return searches;
}

void Segment::GoOn(std::span<const Segment* const> segments, std::span<const uint32_t> suffix,
                   std::span<Search> searches) {
  // The places of a suffix lie around those of a longer one.
  std::vector<Bisection> bisections;
  for (size_t i = 0; i < segments.size(); ++i) {
    if (suffix.size() > searches[i].longest) continue;
    const auto [low, high] = segments[i]->SignRange(suffix);
    bisections.push_back({*segments[i], suffix, 0, std::min(low, searches[i].begin), searches[i].begin});
    bisections.push_back({*segments[i], suffix, 1, searches[i].end, std::max(high, searches[i].end)});
  }
  Finish(bisections);
  auto found = bisections.begin();
  for (Search& search : searches) {
    if (suffix.size() > search.longest) continue;
    search.begin = (found++)->low;
    search.end = (found++)->low;
  }
}

uint32_t Segment::LongestMatch(std::span<const uint32_t> context, const Search& search, uint32_t at_least,
                               const DeadSet* dead) const {
  if (dead == nullptr || search.longest <= at_least) return std::max(search.longest, at_least);
  if (context.size() > kMaxMatch) context = context.last(kMaxMatch);
  // Matches get shorter away from where the context would stand, on both sides.
  size_t left = search.begin, right = left;  // next: left - 1 and right
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

void Segment::FindOccurrences(const Search& search, size_t limit, size_t depth, uint64_t oldest,
                              const DeadSet* dead, std::vector<Occurrence>& out) const {
  const auto first = std::ranges::lower_bound(documents_, oldest, {}, &Document::number);
  if (first == documents_.end()) return;
  const auto [longest, begin, end] = search;

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
  for (const uint32_t position : newest)
    __builtin_prefetch(&text_[position]);  // soon looked at, and far apart
  for (const uint32_t position : newest) {
    const Document* document = LiveDocumentAt(position, nullptr);
    if (document == nullptr) continue;  // a damaged entry
    const size_t rest = document->start + document->size - position;
    out.push_back(
        {document->number, position - document->start, text_.subspan(position, std::min(rest, depth))});
  }
}

}  // namespace clamor::retrieval
