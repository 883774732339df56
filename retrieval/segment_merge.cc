// Merging segments; segment.cc makes and checks one.
#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "retrieval/mapped_files.h"
#include "retrieval/place_order.h"
#include "retrieval/segment.h"

namespace clamor::retrieval {
namespace {

constexpr size_t kAhead = 32;                // places read ahead, of each input
constexpr size_t kStride = size_t{1} << 16;  // places between two looks at memory and at `cancelled`

constexpr Place kEnd = {~uint64_t{0}, 0, 0};  // behind all places
bool Ended(const Place& place) { return place.key == kEnd.key; }

// The least of the fronts of some sorted runs, of which there is at least one: a tree of losers (Knuth, The
// Art of Computer Programming, volume 3, 5.4.1), one comparison on each level.
class Tournament {
 public:
  Tournament(const TokenText& text, std::vector<Place> fronts)
      : less_{text}, fronts_(std::move(fronts)), losers_(fronts_.size()) {
    std::vector<size_t> winners(2 * fronts_.size());
    for (size_t i = 0; i < fronts_.size(); ++i) winners[fronts_.size() + i] = i;
    for (size_t node = fronts_.size() - 1; node > 0; --node) {
      const size_t a = winners[2 * node], b = winners[2 * node + 1];
      const bool first = less_(fronts_[a], fronts_[b]);
      winners[node] = first ? a : b;
      losers_[node] = first ? b : a;
    }
    winner_ = winners[1];
  }
  size_t winner() const { return winner_; }
  const Place& front() const { return fronts_[winner_]; }
  // By what comes next in its run.
  void Replace(const Place& next) {
    fronts_[winner_] = next;
    for (size_t node = (fronts_.size() + winner_) / 2; node > 0; node /= 2) {
      if (less_(fronts_[losers_[node]], fronts_[winner_])) std::swap(losers_[node], winner_);
    }
  }

 private:
  const PlaceLess less_;
  std::vector<Place> fronts_;
  std::vector<size_t> losers_;
  size_t winner_ = 0;
};

}  // namespace

// The live places of one input, in order, moved to where they are in the merged text. The text before a place
// lies anywhere: reading some places ahead has the memory on its way when they are compared.
class Segment::LivePlaces {
 public:
  LivePlaces(const Segment& from, const DeadSet* dead, const Segment& merged)
      : from_(from), merged_(merged), starts_(from.documents_.size()) {
    for (size_t i = 0; i < starts_.size(); ++i) {
      if (dead != nullptr && (*dead)[i]) continue;
      starts_[i] = merged.documents_[*merged.Find(from.documents_[i].number)].start;
    }
  }

  // The next place, kEnd behind the last.
  Place Next() {
    if (ahead_.empty()) ReadAhead();
    if (ahead_.empty()) return kEnd;
    const Place place = ahead_.back();
    ahead_.pop_back();
    return place;
  }

 private:
  void ReadAhead() {
    while (next_ < from_.order_.size() && ahead_.size() < kAhead) {
      const uint32_t position = from_.Bounded(from_.order_[next_++]);
      const Document* document = from_.LiveDocumentAt(position, nullptr);
      if (document == nullptr) continue;  // a damaged entry
      const uint32_t start = starts_[document - from_.documents_.data()];
      if (start == 0) continue;
      const uint32_t before = position - document->start;
      ahead_.push_back({0, start + before, before});
      merged_.text_.Prefetch(ahead_.back().position - 2);
    }
    for (Place& place : ahead_) place = MakePlace(merged_.text_, place.position, place.before);
    std::ranges::reverse(ahead_);
  }

  const Segment& from_;
  const Segment& merged_;
  std::vector<uint32_t> starts_;  // of each document in the merged text; 0: dead
  size_t next_ = 0;               // in from_.order_
  std::vector<Place> ahead_;      // the next of them last
};

// A segment of these documents, by rising number, that has all but its order.
absl::StatusOr<std::shared_ptr<Segment>> Segment::MergeTexts(std::string_view prefix,
                                                             std::span<const Live> live, std::string path) {
  // Of each segment which codes are in use, then what they become.
  absl::flat_hash_map<const Segment*, std::vector<uint32_t>> codes;
  for (const auto& [segment, document] : live) {
    std::vector<uint32_t>& used = codes[segment];
    used.resize(segment->dictionary_.size());
    MappedFiles::OfProcess().Look();
    for (uint32_t i = 0; i < document.size; ++i) used[segment->text_.Code(document.start + i)] = 1;
    if (used.back() != 0) {
      return absl::DataLossError(
          absl::StrCat(segment->path(), ": document ", document.number, " has an end mark in it"));
    }
  }
  std::vector<uint32_t> dictionary = {kEndMark};
  for (const auto& [segment, used] : codes) {
    for (size_t code = 0; code < used.size(); ++code) {
      if (used[code] != 0) dictionary.push_back(segment->dictionary_[code]);
    }
  }
  std::ranges::sort(dictionary);
  const auto repeated = std::ranges::unique(dictionary);
  dictionary.erase(repeated.begin(), repeated.end());
  for (auto& [segment, becomes] : codes) {
    for (size_t code = 0; code < becomes.size(); ++code) {
      becomes[code] = static_cast<uint32_t>(std::ranges::lower_bound(dictionary, segment->dictionary_[code]) -
                                            dictionary.begin());
    }
  }

  std::vector<Document> documents;
  for (const Live& each : live) documents.push_back(each.document);
  CLAMOR_ASSIGN_OR_RETURN(std::shared_ptr<Segment> merged,
                          Allocate(prefix, std::move(documents), dictionary, std::move(path)));
  for (size_t i = 0; i < live.size(); ++i) {
    const auto& [segment, document] = live[i];
    const std::vector<uint32_t>& becomes = codes[segment];
    const uint32_t start = merged->documents_[i].start;
    MappedFiles::OfProcess().Look();
    for (uint32_t j = 0; j < document.size; ++j)
      merged->text_.Set(start + j, becomes[segment->text_.Code(document.start + j)]);
  }
  return merged;
}

absl::StatusOr<std::shared_ptr<const Segment>> Segment::Merge(std::string_view prefix,
                                                              std::span<const Input> inputs, std::string path,
                                                              const std::atomic<bool>& cancelled) {
  std::vector<Live> live;
  for (const auto& [segment, dead] : inputs) {
    if (!segment->path().empty()) CLAMOR_RETURN_IF_ERROR(segment->CheckBody());
    for (size_t i = 0; i < segment->documents_.size(); ++i) {
      if (dead == nullptr || !(*dead)[i]) live.push_back({segment, segment->documents_[i]});
    }
  }
  std::ranges::sort(live, {}, [](const Live& each) { return each.document.number; });
  // The text first: then places can be compared where they will be.
  CLAMOR_ASSIGN_OR_RETURN(std::shared_ptr<Segment> merged, MergeTexts(prefix, live, std::move(path)));

  // Each input is sorted already, and moving its places into the new text keeps them so.
  std::deque<LivePlaces> runs;
  std::vector<Place> fronts;
  for (const auto& [segment, dead] : inputs)
    fronts.push_back(runs.emplace_back(*segment, dead, *merged).Next());
  Tournament least(merged->text_, std::move(fronts));
  size_t count = 0, written = 0;
  while (!Ended(least.front()) && count < merged->order_.size()) {
    if (count % kStride == 0) {
      if (cancelled.load(std::memory_order_relaxed)) return absl::CancelledError("merge cancelled");
      MappedFiles::OfProcess().Look();
      merged->storage_.Forget(written, kStride * sizeof(uint32_t));  // what was written since the last time
      written = reinterpret_cast<std::byte*>(&merged->order_[count]) - merged->storage_.data();
    }
    merged->order_[count++] = least.front().position;
    least.Replace(runs[least.winner()].Next());
  }
  if (!Ended(least.front()) || count != merged->order_.size()) {
    return absl::DataLossError(absl::StrCat("segments to merge list ", count,
                                            Ended(least.front()) ? "" : " and more",
                                            " places, their documents have ", merged->order_.size()));
  }
  CLAMOR_RETURN_IF_ERROR(merged->Seal());
  return merged;
}

}  // namespace clamor::retrieval
