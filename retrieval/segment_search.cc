// Lookups in a segment; segment.cc makes and checks one.
#include <algorithm>
#include <array>
#include <functional>
#include <ranges>

#include "retrieval/key_codec.h"
#include "retrieval/place_order.h"
#include "retrieval/segment.h"

namespace clamor::retrieval {
namespace {

// How many of the numbers below `size` are `below`, which are the first of them: about `guess`.
template <typename Below>
size_t CountBelow(size_t size, size_t guess, Below below) {
  size_t low = guess, high = guess, stride = 1;
  for (; low > 0 && !below(low - 1); stride *= 2) {
    high = low - 1;
    low -= std::min(stride, low);
  }
  for (; high < size && below(high); stride *= 2) {
    low = high + 1;
    high += std::min(stride, size - high);
  }
  return *std::ranges::partition_point(std::views::iota(low, high), below);
}

}  // namespace

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

// What a search reads of text and order goes through Read: most of a large store is in the page cache alone.
std::span<const uint32_t> Segment::Entries(size_t begin, size_t count, uint32_t* buffer) const {
  const std::byte* read = storage_.Read(1, std::as_bytes(order_.subspan(begin, count)),
                                        reinterpret_cast<std::byte*>(buffer));
  return {reinterpret_cast<const uint32_t*>(read), count};
}

uint32_t Segment::Entry(size_t index) const {
  uint32_t entry;
  return Bounded(Entries(index, 1, &entry).front());
}

// How the place at `position` compares to those before which `context` stands, and how many tokens of the
// context's end stand before it: `known` of them at least.
Segment::Comparison Segment::Compare(uint32_t position, std::span<const uint32_t> context,
                                     uint32_t known) const {
  std::array<std::byte, TokenText::WindowBytes(kMaxMatch)> buffer;
  const auto some = static_cast<uint32_t>(std::min<size_t>(position, context.size()));
  const TokenText::Copied before(text_, position - some,
                                 storage_.Read(0, text_.Window(position - some, some), buffer.data()));
  for (uint32_t i = known; i < context.size(); ++i) {
    const uint32_t token = i < some ? before[position - 1 - i] : kEndMark;
    const uint32_t wanted = context[context.size() - 1 - i];
    if (token != wanted) return {token < wanted ? -1 : 1, i};
  }
  return {0, static_cast<uint32_t>(context.size())};
}

// Looks for the first entry of `order` whose place compares to `context` as `at_least` (0 or 1) or above: it
// is in [low, high]. The one before low has at least `before` tokens in common with the context, the one at
// high `behind`, and so all between them have the lesser of that.
struct Segment::Bisection {
  const Segment& segment;
  std::span<const uint32_t> context;
  int at_least;
  size_t low, high;
  uint32_t before, behind;
  // Not 0: it is near high, or with `at_least` 1 near low, and this far from there is the next look.
  size_t stride = 0;

  // The last entries between low and high, together, and where they begin.
  static constexpr size_t kTogether = 64;
  std::array<uint32_t, kTogether> buffer = {};
  std::span<const uint32_t> entries = {};
  size_t entries_begin = 0;
  uint32_t position = 0;  // of the place looked at

  size_t middle() const {
    if (stride == 0 || stride > (high - low) / 2) return low + (high - low) / 2;
    return at_least == 1 ? low + stride - 1 : high - stride;
  }
  void Look() {
    if (entries.empty() && high - low <= kTogether) {
      entries_begin = low;
      entries = segment.Entries(low, high - low, buffer.data());
    }
    position = entries.empty() ? segment.Entry(middle()) : segment.Bounded(entries[middle() - entries_begin]);
  }
  void Narrow() {
    const size_t at = middle();
    const Comparison compared = segment.Compare(position, context, std::min(before, behind));
    const bool below = compared.order < at_least;
    (below ? low : high) = below ? at + 1 : at;
    (below ? before : behind) = compared.common;
    stride = below == (at_least == 1) ? 2 * stride : 0;
  }
};

// Where the signs say that the places of `context` begin and end: around `near`, if that is known.
std::pair<Segment::Bisection, Segment::Bisection> Segment::BySigns(std::span<const uint32_t> context,
                                                                   const Search* near) const {
  // Signs tell on which side of the context a span begins, or that it begins with the context's last tokens.
  auto compare = [&](size_t sign) -> Comparison {
    const auto some = static_cast<uint32_t>(std::min<size_t>(context.size(), kSignTokens));
    for (uint32_t i = 0; i < some; ++i) {
      const uint32_t token = signs_[static_cast<uint32_t>(sign * kSignTokens) + i];
      const uint32_t wanted = context[context.size() - 1 - i];
      if (token != wanted) return {token < wanted ? -1 : 1, i};
    }
    return {0, some};
  };
  auto below = [&](size_t sign) { return compare(sign).order < 0; };
  auto not_above = [&](size_t sign) { return compare(sign).order <= 0; };
  const auto signs = std::views::iota(size_t{0}, size_t{signs_.size() / kSignTokens});
  const size_t first = near != nullptr ? CountBelow(signs.size(), near->begin / kSignSpan, below)
                                       : *std::ranges::partition_point(signs, below);
  const size_t last =
      std::max(first, CountBelow(signs.size(), near != nullptr ? near->end / kSignSpan : first, not_above));
  auto between = [&](int at_least, size_t from, size_t to) -> Bisection {
    return {.segment = *this,
            .context = context,
            .at_least = at_least,
            .low = from == 0 ? 0 : (from - 1) * kSignSpan + 1,
            .high = std::min<size_t>(to * kSignSpan, order_.size()),
            .before = from == 0 ? 0 : compare(from - 1).common,
            .behind = to == signs.size() ? 0 : compare(to).common};
  };
  const bool known = context.size() <= kSignTokens;  // all of it, by the signs
  return {between(0, first, known ? first : last), between(1, known ? last : first, last)};
}

// Until low equals high in all of them, which must stay where they are. What they look at next is on its way
// for all before it is looked at.
void Segment::Finish(std::span<Bisection> bisections) {
  for (bool going = true; going;) {
    going = false;
    for (const Bisection& each : bisections) {
      if (each.low < each.high) __builtin_prefetch(&each.segment.order_[each.middle()]);
    }
    for (Bisection& each : bisections) {
      if (each.low == each.high) continue;
      each.Look();
      each.segment.text_.Prefetch(each.position);
    }
    for (Bisection& each : bisections) {
      if (each.low == each.high) continue;
      each.Narrow();
      going = true;
    }
  }
}

std::vector<Segment::Search> Segment::Begin(std::span<const Segment* const> segments,
                                            std::span<const uint32_t> context) {
  if (context.size() > kMaxMatch) context = context.last(kMaxMatch);
  std::vector<Bisection> bisections;
  for (const Segment* segment : segments) {
    bisections.push_back(segment->BySigns(context, nullptr).first);
  }
  Finish(bisections);
  std::vector<Search> searches;
  for (const Bisection& found : bisections) {
    // The longest matches are next to where the context would stand.
    searches.push_back(
        {std::max(found.before, found.behind), found.low, found.low, found.before, found.behind});
  }
  return searches;
}

void Segment::GoOn(std::span<const uint32_t> suffix, Search& search) const {
  if (suffix.size() > search.longest) return;
  const bool more_before = search.before >= suffix.size(), more_behind = search.behind >= suffix.size();
  if (!more_before && !more_behind) return;
  // The places of a suffix lie around those of a longer one.
  auto [begin, end] = BySigns(suffix, &search);
  begin.high = more_before ? search.begin - 1 : search.begin;
  begin.low = more_before ? std::min(begin.low, begin.high) : begin.high;
  end.low = more_behind ? search.end + 1 : search.end;
  end.high = more_behind ? std::max(end.low, end.high) : end.low;
  // Where the signs do not know all of it, it has few places as a rule.
  if (suffix.size() > kSignTokens) begin.stride = end.stride = 1;
  std::array<Bisection, 2> both = {begin, end};
  Finish(both);
  if (more_before) {
    search.begin = both[0].low;
    search.before = both[0].before;
  }
  if (more_behind) {
    search.end = both[1].low;
    search.behind = both[1].behind;
  }
}

uint32_t Segment::LongestMatch(std::span<const uint32_t> context, const Search& search, uint32_t at_least,
                               const DeadSet* dead) const {
  if (dead == nullptr || search.longest <= at_least) return std::max(search.longest, at_least);
  if (context.size() > kMaxMatch) context = context.last(kMaxMatch);
  // Matches get shorter away from where the context would stand, on both sides.
  size_t left = search.begin, right = left;  // next: left - 1 and right
  auto left_length = [&] { return left > 0 ? Compare(Entry(left - 1), context).common : 0; };
  auto right_length = [&] { return right < order_.size() ? Compare(Entry(right), context).common : 0; };
  uint32_t before = left_length(), behind = right_length();
  while (std::max(before, behind) > at_least) {
    const bool go_left = before > behind;
    if (LiveDocumentAt(Entry(go_left ? left - 1 : right), dead) != nullptr) return go_left ? before : behind;
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
  const auto [longest, begin, end, before, behind] = search;

  // A higher position is a newer place: keep the `limit` highest, the lowest of them on top. A common suffix
  // has many more places than that; the peaks pass over blocks that hold none of the highest.
  std::vector<uint32_t> newest;
  uint32_t floor = first->start;  // what is not above it is too old
  std::array<uint32_t, kSpan> buffer;
  for (size_t i = begin, next; i < end; i = next) {
    next = std::min((i / kSpan + 1) * kSpan, end);
    if (next - i == kSpan && peaks_[i / kSpan] <= floor) continue;
    for (const uint32_t entry : Entries(i, next - i, buffer.data())) {
      const uint32_t position = Bounded(entry);
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
  }
  for (const uint32_t position : newest) text_.Prefetch(position);  // soon looked at, and far apart
  for (const uint32_t position : newest) {
    const Document* document = LiveDocumentAt(position, nullptr);
    if (document == nullptr) continue;  // a damaged entry
    const size_t rest = document->start + document->size - position;
    out.push_back({document->number, position - document->start, this, position,
                   static_cast<uint32_t>(std::min(rest, depth))});
  }
}

void Segment::ReadContinuation(const Occurrence& occurrence, uint32_t* out) {
  const auto& [number, position, segment, begin, size] = occurrence;
  std::array<std::byte, TokenText::WindowBytes(kMaxMatch)> buffer;
  const TokenText& text = segment->text_;
  const TokenText::Copied tokens(text, begin,
                                 segment->storage_.Read(0, text.Window(begin, size), buffer.data()));
  for (uint32_t i = 0; i < size; ++i) out[i] = tokens[begin + i];
}

}  // namespace clamor::retrieval
