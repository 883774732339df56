// An immutable index of some documents of one namespace: every place in them, sorted by what comes before it.
//
// DESCRIPTION. A place is a position with at least one token of its document before it and one after. `order`
// lists all places by the tokens before them, read backwards (up to kMaxMatch of them), then newest first. So
// the places before which a given context stands are neighbours, and the longest suffix of a context that
// occurs is found by one binary search, and those of shorter ones lie around it. Costs: building O(n log n),
// merging O(n log k) for k segments; a lookup O(log n) comparisons of up to kMaxMatch tokens, plus the dead
// places that it has to step over.
//
// IMPLEMENTATION. One flat block (segment_storage.h): header, namespace prefix, table of documents by rising
// number, dictionary, signs, text (token_text.h; documents in that order, each after an end mark), order,
// peaks. Newer documents lie behind older ones in the text, so a higher position is a newer place. About 6.5
// bytes per token where there are a hundred thousand different ones. `order` has two small indexes. Signs are
// the codes of the three or four tokens before every 32nd place: a search goes through them first, so that it
// touches some pages of order and text and not two for each of its steps. Peaks are the greatest of each 1024
// places: they let a search for the newest places pass over most.
//
// Segments are made from the documents in RocksDB and can be made again: a file that is damaged is left out.
// The tables are checked when a file is opened; text and order are not, so every use of them is bounded:
// damage there gives wrong drafts and is found by CheckIntegrity, but breaks nothing.
//
// Threads: immutable; any number of readers. Tested by tests/retrieval/segment_test.cc.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "retrieval/segment_storage.h"
#include "retrieval/token_text.h"

namespace clamor::retrieval {

inline constexpr uint32_t kMaxMatch = 256;                 // tokens of a context that count
inline constexpr uint32_t kMaxSegmentTokens = 128u << 20;  // end marks included
static_assert(kMaxSegmentTokens <= 1u << 30, "place_sort.h");

class Segment {
 public:
  static constexpr uint32_t kSpan = 1024;    // entries of `order` under one peak
  static constexpr uint32_t kSignSpan = 32;  // and under one sign
  using DeadSet = std::vector<bool>;         // by index of the document; a null pointer: all live

  struct Document {
    uint64_t number, checksum;  // as in the catalog
    uint32_t start, size;       // in the text
  };
  struct Source {
    uint64_t number;
    std::span<const uint32_t> tokens;
  };
  struct Input {
    const Segment* segment;
    const DeadSet* dead;
  };
  // What follows a match.
  struct Occurrence {
    uint64_t number;    // of the document
    uint32_t position;  // in the document, of the first token that follows
    const Segment* segment;
    uint32_t begin, size;  // where it is in the text
  };

  // A segment of `documents`, of which there is at least one and which come by rising number; on the heap, or
  // in a new file unless `path` is empty.
  static absl::StatusOr<std::shared_ptr<const Segment>> Build(std::string_view prefix,
                                                              std::span<const Source> documents,
                                                              std::string path);
  // A segment of all live documents of `inputs`, at least one, none of them twice. CANCELLED soon after
  // `cancelled` becomes true. Of a file, no more than its text stays in memory meanwhile.
  static absl::StatusOr<std::shared_ptr<const Segment>> Merge(std::string_view prefix,
                                                              std::span<const Input> inputs, std::string path,
                                                              const std::atomic<bool>& cancelled);
  // A copy of `from` whose documents have the numbers from `first_number` on, in a new file.
  static absl::StatusOr<std::shared_ptr<const Segment>> Renumber(const Segment& from, uint64_t first_number,
                                                                 std::string path);
  // DATA_LOSS unless header and table make sense.
  static absl::StatusOr<std::shared_ptr<const Segment>> Open(std::string path);

  std::string_view prefix() const { return prefix_; }
  std::span<const Document> documents() const { return documents_; }
  std::vector<uint32_t> Text(const Document& document) const;
  std::optional<size_t> Find(uint64_t number) const;  // index of a document
  uint64_t tokens() const { return tokens_; }
  uint64_t bytes() const { return storage_.size(); }
  const std::string& path() const { return storage_.path(); }  // empty: on the heap

  // Has part of its file read, while the caller goes on: SegmentStorage.
  void ReadAhead(uint64_t offset, uint64_t bytes) const { storage_.ReadAhead(offset, bytes); }

  // Neighbours in `order` that were read together: those which a search looks at are near one another.
  struct EntryBlock {
    size_t begin = 0;
    uint32_t size = 0;
    std::array<uint32_t, 128> entries;
  };
  // A search for a context and its suffixes, each shorter than the one before.
  struct Search {
    uint32_t longest;   // tokens of the context's end (at most kMaxMatch) before some place, live or dead
    size_t begin, end;  // in `order`: the places of the last suffix; at first none, where the context stands
    uint32_t before, behind;  // how many tokens of it stand before the places next to those
    // What signs would be of the context, as far as the dictionary has its tokens: of so many of the last,
    // then where the next would stand, then 0.
    uint64_t sign = 0;
    uint32_t signed_tokens = 0;
    EntryBlock block;
  };
  // In all segments in step with one another: most of a search is waiting for memory.
  static std::vector<Search> Begin(std::span<const Segment* const> segments,
                                   std::span<const uint32_t> context);
  // Goes on to `suffix` if it is no longer than `longest`.
  void GoOn(std::span<const uint32_t> suffix, Search& search) const;

  // How many tokens of the end of `context`, which `search` began with, stand before some live place, or
  // `at_least` if no more do.
  uint32_t LongestMatch(std::span<const uint32_t> context, const Search& search, uint32_t at_least,
                        const DeadSet* dead) const;

  // Appends to `out` the newest `limit` live places of the last suffix of `search`, in no order, each with up
  // to `depth` tokens that follow. Leaves out documents with numbers below `oldest`.
  void FindOccurrences(const Search& search, size_t limit, size_t depth, uint64_t oldest, const DeadSet* dead,
                       std::vector<Occurrence>& out) const;
  // What follows, of a `size` of at most kMaxMatch: where it is, or read into `buffer`, which has room for
  // TokenText::WindowBytes(size).
  static TokenRun Continuation(const Occurrence& occurrence, std::byte* buffer) {
    return occurrence.segment->Run(occurrence.begin, occurrence.size, buffer);
  }

  // Recounts everything: checksums, sorting, every place listed once, the indexes of `order`.
  absl::Status CheckIntegrity() const;

 private:
  class LivePlaces;
  struct Bisection;
  struct Comparison {
    int order;  // below, at or above: -1, 0, 1
    uint32_t common;
  };
  // A document to be merged, and where it is.
  struct Live {
    const Segment* segment;
    Document document;
  };
  static constexpr uint32_t kBlock = 512;

  explicit Segment(SegmentStorage storage);
  static absl::StatusOr<std::shared_ptr<Segment>> Allocate(std::string_view prefix,
                                                           std::vector<Document> documents,
                                                           std::span<const uint32_t> dictionary,
                                                           std::string path);
  static absl::StatusOr<std::shared_ptr<Segment>> MergeTexts(std::string_view prefix,
                                                             std::span<const Live> live, std::string path);
  void SetSpans();
  absl::Status CheckTable() const;
  absl::Status CheckBody() const;
  void IndexDocuments();
  void FillSpans();
  absl::Status Seal();
  void Serve() const;
  uint64_t TableChecksum() const;
  uint64_t BodyChecksum() const;
  static void Finish(std::span<Bisection> bisections);
  void Sign(std::span<const uint32_t> context, Search& search) const;
  std::pair<uint64_t, uint64_t> SignsOf(size_t tokens, const Search& search) const;
  std::pair<Bisection, Bisection> Between(std::span<const uint32_t> suffix, Search& search, size_t first,
                                          size_t last) const;
  std::span<const uint32_t> Entries(size_t begin, size_t count, uint32_t* buffer) const;
  uint32_t Entry(size_t index, EntryBlock& block) const;
  TokenRun Run(uint32_t first, uint32_t size, std::byte* buffer) const;
  Comparison Compare(uint32_t position, std::span<const uint32_t> context, uint32_t known = 0) const;
  const Document* LiveDocumentAt(uint32_t position, const DeadSet* dead) const;
  // 0 is no place, so that an entry out of the text is none either.
  uint32_t Bounded(uint32_t entry) const { return entry < text_.size() ? entry : 0; }

  SegmentStorage storage_;
  uint64_t tokens_ = 0;
  std::string_view prefix_;
  std::span<Document> documents_;
  std::span<uint32_t> dictionary_, order_, peaks_;
  std::span<uint64_t> signs_;
  TokenText text_;
  std::vector<uint32_t> first_documents_;  // where each kBlock tokens of the text begin; not in the file
};

}  // namespace clamor::retrieval
