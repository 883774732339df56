#include "model/prefix_index.h"

#include <algorithm>
#include <cassert>
#include <utility>

#include "absl/hash/hash.h"
#include "absl/strings/string_view.h"

namespace clamor {

// absl::Hash is salted anew in every process: nobody outside can make two names meet.
PrefixIndex::Place PrefixIndex::Beginning(std::string_view tenant) const {
  return {.tenant = absl::HashOf(absl::string_view(tenant.data(), tenant.size()))};
}

PrefixIndex::Key PrefixIndex::MakeKey(Place from, Tokens tokens) {
  Key key{.from = from};
  std::copy(tokens.begin(), tokens.end(), key.tokens.begin());
  return key;
}

PrefixIndex::Page PrefixIndex::Find(Place from, Tokens tokens) const {
  const auto it = pages_.find(MakeKey(from, tokens));
  return it == pages_.end() ? Page{} : it->second;
}

PrefixIndex::Place PrefixIndex::Add(Place from, Tokens tokens, int32_t page) {
  const Key key = MakeKey(from, tokens);
  const auto [it, added] = pages_.try_emplace(key, Page{.page = page, .end = {from.tenant, next_place_}});
  if (added) {
    assert(!entries_[page].known);
    entries_[page] = {.known = true, .key = key};
    ++next_place_;
  }
  return it->second.end;
}

void PrefixIndex::SetIdle(int32_t page) {
  Entry& entry = entries_[page];
  assert(entry.known);
  entry.before = newest_;
  entry.after = kNone;
  (newest_ == kNone ? oldest_ : entries_[newest_].after) = page;
  newest_ = page;
  entry.idle = true;
  ++idle_;
}

void PrefixIndex::SetBusy(int32_t page) {
  Entry& entry = entries_[page];
  (entry.before == kNone ? oldest_ : entries_[entry.before].after) = entry.after;
  (entry.after == kNone ? newest_ : entries_[entry.after].before) = entry.before;
  entry.idle = false;
  --idle_;
}

void PrefixIndex::Remove(int32_t page) {
  SetBusy(page);
  pages_.erase(entries_[page].key);
  entries_[page] = {};
}

std::vector<int32_t> PrefixIndex::Forget(std::string_view tenant) {
  const uint64_t owner = Beginning(tenant).tenant;
  std::vector<int32_t> pages;
  for (size_t page = 0; page < entries_.size(); ++page) {
    const Entry& entry = entries_[page];
    if (entry.known && entry.idle && entry.key.from.tenant == owner)
      pages.push_back(static_cast<int32_t>(page));
  }
  for (const int32_t page : pages) Remove(page);
  return pages;
}

int32_t PrefixIndex::Evict() {
  const int32_t page = oldest_;
  if (page == kNone) return kNone;
  Remove(page);
  return page;
}

}  // namespace clamor
