// The search for a context in segments; segment_occurrences.cc looks at what it found.
#include <algorithm>
#include <array>
#include <bit>

#include "retrieval/segment.h"

namespace clamor::retrieval {
namespace {

// How many of `sorted` are below `value`: about `guess`.
size_t CountBelow(std::span<const uint64_t> sorted, size_t guess, uint64_t value) {
  size_t low = guess, high = guess, stride = 1;
  for (; low > 0 && sorted[low - 1] >= value; stride *= 2) {
    high = low - 1;
    low -= std::min(stride, low);
  }
  for (; high < sorted.size() && sorted[high] < value; stride *= 2) {
    low = high + 1;
    high += std::min(stride, sorted.size() - high);
  }
  return std::ranges::lower_bound(sorted.subspan(low, high - low), value) - sorted.begin();
}

}  // namespace

// What a search reads of text and order goes through Read: most of a large store is in the page cache alone.
std::span<const uint32_t> Segment::Entries(size_t begin, size_t count, uint32_t* buffer) const {
  const std::byte* read =
      storage_.Read(1, std::as_bytes(order_.subspan(begin, count)), reinterpret_cast<std::byte*>(buffer));
  return {reinterpret_cast<const uint32_t*>(read), count};
}

uint32_t Segment::Entry(size_t index, EntryBlock& block) const {
  if (storage_.Direct(1)) return Bounded(order_[index]);
  if (index < block.begin || index - block.begin >= block.size) {
    const size_t most = block.entries.size();
    block.begin = index - std::min(index, most / 2);
    block.size = static_cast<uint32_t>(std::min(most, order_.size() - block.begin));
    const auto read = Entries(block.begin, block.size, block.entries.data());
    if (read.data() != block.entries.data()) std::ranges::copy(read, block.entries.begin());
  }
  return Bounded(block.entries[index - block.begin]);
}

TokenRun Segment::Run(uint32_t first, uint32_t size, std::byte* buffer) const {
  return {text_, first, size, storage_.Read(0, text_.Window(first, size), buffer)};
}

// How the place at `position` compares to those before which `context` stands, and how many tokens of the
// context's end stand before it: `known` of them at least.
Segment::Comparison Segment::Compare(uint32_t position, std::span<const uint32_t> context,
                                     uint32_t known) const {
  std::array<std::byte, TokenText::WindowBytes(kMaxMatch)> buffer;
  const auto some = static_cast<uint32_t>(std::min<size_t>(position, context.size()));
  const TokenRun before = Run(position - some, some, buffer.data());
  for (uint32_t i = known; i < context.size(); ++i) {
    const uint32_t token = i < some ? before[some - 1 - i] : kEndMark;
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
  EntryBlock* block;
  std::span<const uint32_t> context;
  int at_least;
  size_t low, high;
  uint32_t before, behind;
  // Not 0: it is near high, or with `at_least` 1 near low, and this far from there is the next look.
  size_t stride = 0;

  uint32_t position = 0;  // of the place looked at

  size_t middle() const {
    if (stride == 0 || stride > (high - low) / 2) return low + (high - low) / 2;
    return at_least == 1 ? low + stride - 1 : high - stride;
  }
  void Look() { position = segment.Entry(middle(), *block); }
  void Narrow() {
    const size_t at = middle();
    const Comparison compared = segment.Compare(position, context, std::min(before, behind));
    const bool below = compared.order < at_least;
    (below ? low : high) = below ? at + 1 : at;
    (below ? before : behind) = compared.common;
    stride = below == (at_least == 1) ? 2 * stride : 0;
  }
};

void Segment::Sign(std::span<const uint32_t> context, Search& search) const {
  // The codes of all in step, without a branch.
  const auto ids = dictionary_.first(text_.end_code());
  const auto tokens = static_cast<uint32_t>(std::min<size_t>(text_.per_key(), context.size()));
  auto token = [&](uint32_t i) { return context[context.size() - 1 - i]; };
  std::array<uint32_t, 64> codes = {};
  for (uint32_t left = text_.end_code(); left > 1; left -= left / 2) {
    for (uint32_t i = 0; i < tokens; ++i)
      codes[i] += left / 2 & -static_cast<uint32_t>(ids[codes[i] + left / 2 - 1] < token(i));
  }
  for (uint32_t i = 0; i < tokens; ++i) codes[i] += ids[codes[i]] < token(i) ? 1 : 0;

  uint32_t used = 0;
  for (bool has = true; has && used < tokens; ++used) {
    search.sign = search.sign << text_.width() | codes[used];
    has = codes[used] < ids.size() && ids[codes[used]] == token(used);
    if (has) ++search.signed_tokens;
  }
  search.sign <<= (text_.per_key() - used) * text_.width();
}

// Signs of places of the context's last `tokens` are at least the first and below the second; what is below
// the first lies before those places, and what is not below the second, behind.
std::pair<uint64_t, uint64_t> Segment::SignsOf(size_t tokens, const Search& search) const {
  const auto some = static_cast<uint32_t>(std::min<size_t>(tokens, text_.per_key()));
  if (some > search.signed_tokens) return {search.sign, search.sign};  // there are none
  const uint64_t unit = uint64_t{1} << (text_.per_key() - some) * text_.width();
  const uint64_t begin = search.sign & ~(unit - 1);
  return {begin, begin + unit};
}

// Where the places of `suffix` begin and end, if `first` signs are below those of SignsOf and `last` below
// their end.
std::pair<Segment::Bisection, Segment::Bisection> Segment::Between(std::span<const uint32_t> suffix,
                                                                   Search& search, size_t first,
                                                                   size_t last) const {
  const auto some =
      static_cast<uint32_t>(std::min<size_t>({suffix.size(), text_.per_key(), search.signed_tokens}));
  const int unused = 64 - static_cast<int>(text_.per_key() * text_.width());
  auto common = [&](uint64_t sign) {
    const int equal = std::countl_zero(sign ^ search.sign) - unused;
    return std::min(some, static_cast<uint32_t>(std::max(equal, 0)) / text_.width());
  };
  auto between = [&](int at_least, size_t from, size_t to) -> Bisection {
    return {.segment = *this,
            .block = &search.block,
            .context = suffix,
            .at_least = at_least,
            .low = from == 0 ? 0 : (from - 1) * kSignSpan + 1,
            .high = std::min<size_t>(to * kSignSpan, order_.size()),
            .before = from == 0 ? 0 : common(signs_[from - 1]),
            .behind = to == signs_.size() ? 0 : common(signs_[to])};
  };
  const bool known = suffix.size() <= some;  // all of it, by the signs
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
  // Through all signs in step.
  struct SignSearch {
    const uint64_t* at;
    size_t left;
    uint64_t wanted;
  };
  std::vector<Search> searches(segments.size());
  std::vector<SignSearch> sign_searches;
  for (size_t i = 0; i < segments.size(); ++i) {
    segments[i]->Sign(context, searches[i]);
    const auto& signs = segments[i]->signs_;
    const uint64_t begin = segments[i]->SignsOf(context.size(), searches[i]).first;
    sign_searches.push_back({signs.data(), signs.size(), begin});
  }
  for (bool going = true; going;) {
    going = false;
    for (const SignSearch& each : sign_searches) __builtin_prefetch(each.at + each.left / 2);
    for (SignSearch& each : sign_searches) {
      if (each.left == 0) continue;
      const size_t half = each.left / 2;
      const bool below = each.at[half] < each.wanted;
      each.at += below ? half + 1 : 0;
      each.left = below ? each.left - half - 1 : half;
      going = true;
    }
  }

  std::vector<Bisection> bisections;
  for (size_t i = 0; i < segments.size(); ++i) {
    const auto& signs = segments[i]->signs_;
    const size_t first = sign_searches[i].at - signs.data();
    const uint64_t end = segments[i]->SignsOf(context.size(), searches[i]).second;
    bisections.push_back(
        segments[i]->Between(context, searches[i], first, CountBelow(signs, first, end)).first);
  }
  Finish(bisections);
  for (size_t i = 0; i < segments.size(); ++i) {
    const Bisection& found = bisections[i];
    // The longest matches are next to where the context would stand.
    searches[i].longest = std::max(found.before, found.behind);
    searches[i].begin = searches[i].end = found.low;
    searches[i].before = found.before;
    searches[i].behind = found.behind;
  }
  return searches;
}

void Segment::GoOn(std::span<const uint32_t> suffix, Search& search) const {
  if (suffix.size() > search.longest) return;
  const bool more_before = search.before >= suffix.size(), more_behind = search.behind >= suffix.size();
  if (!more_before && !more_behind) return;
  // The places of a suffix lie around those of a longer one.
  const auto [first_sign, end_sign] = SignsOf(suffix.size(), search);
  const size_t first = CountBelow(signs_, search.begin / kSignSpan, first_sign);
  const size_t last = CountBelow(signs_, std::max<size_t>(search.end / kSignSpan, first), end_sign);
  auto [begin, end] = Between(suffix, search, first, last);
  begin.high = more_before ? search.begin - 1 : search.begin;
  begin.low = more_before ? std::min(begin.low, begin.high) : begin.high;
  end.low = more_behind ? search.end + 1 : search.end;
  end.high = more_behind ? std::max(end.low, end.high) : end.low;
  // Where the signs do not know all of it, it has few places as a rule.
  if (suffix.size() > text_.per_key()) begin.stride = end.stride = 1;
  EntryBlock end_block = search.block;
  end.block = &end_block;
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

}  // namespace clamor::retrieval
