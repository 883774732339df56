// What a search has found: the live places among it, the newest of them; segment_search.cc searches.
#include <algorithm>
#include <array>
#include <functional>

#include "retrieval/segment.h"

namespace clamor::retrieval {

std::optional<size_t> Segment::Find(uint64_t number) const {
  const auto found = std::ranges::lower_bound(documents_, number, {}, &Document::number);
  if (found == documents_.end() || found->number != number) return std::nullopt;
  return found - documents_.begin();
}

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

uint32_t Segment::LongestMatch(std::span<const uint32_t> context, const Search& search, uint32_t at_least,
                               const DeadSet* dead) const {
  if (dead == nullptr || search.longest <= at_least) return std::max(search.longest, at_least);
  if (context.size() > kMaxMatch) context = context.last(kMaxMatch);
  // Matches get shorter away from where the context would stand, on both sides.
  size_t left = search.begin, right = left;  // next: left - 1 and right
  EntryBlock block = search.block;
  auto left_length = [&] { return left > 0 ? Compare(Entry(left - 1, block), context).common : 0; };
  auto right_length = [&] {
    return right < order_.size() ? Compare(Entry(right, block), context).common : 0;
  };
  uint32_t before = left_length(), behind = right_length();
  while (std::max(before, behind) > at_least) {
    const bool go_left = before > behind;
    if (LiveDocumentAt(Entry(go_left ? left - 1 : right, block), dead) != nullptr)
      return go_left ? before : behind;
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
  const size_t begin = search.begin, end = search.end;

  // A higher position is a newer place: keep the `limit` highest, the lowest of them on top. A common suffix
  // has many more places than that; the peaks pass over blocks that hold none of the highest.
  std::vector<uint32_t> newest;
  uint32_t floor = first->start;  // what is not above it is too old
  std::array<uint32_t, kSpan> buffer;
  for (size_t i = begin, next; i < end; i = next) {
    next = std::min((i / kSpan + 1) * kSpan, end);
    if (next - i == kSpan && peaks_[i / kSpan] <= floor) continue;
    const bool read = i >= search.block.begin && next <= search.block.begin + search.block.size;
    for (const uint32_t entry :
         read ? std::span(search.block.entries).subspan(i - search.block.begin, next - i)
              : Entries(i, next - i, buffer.data())) {
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
  for (const uint32_t position : newest) {  // soon looked at, and far apart
    text_.Prefetch(position);
    text_.Prefetch(static_cast<uint32_t>(std::min<size_t>(position + depth, text_.size() - 1)));
    __builtin_prefetch(&first_documents_[position / kBlock]);
  }
  for (const uint32_t position : newest) {
    const Document* document = LiveDocumentAt(position, nullptr);
    if (document == nullptr) continue;  // a damaged entry
    const size_t rest = document->start + document->size - position;
    out.push_back({document->number, position - document->start, this, position,
                   static_cast<uint32_t>(std::min(rest, depth))});
  }
}

}  // namespace clamor::retrieval
