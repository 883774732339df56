// An immutable index of some documents of one namespace: every place in them, sorted by what comes before it.
//
// DESCRIPTION. A place is a position with at least one token of its document before it and one after. `order`
// lists all places by the tokens before them, read backwards (up to kMaxMatch of them), then newest first. So
// the places before which a given context stands are neighbours, and the longest suffix of a context that
// occurs is found by one binary search. Costs: building O(n log n), merging O(n log k) for k segments; a
// lookup O(log n) comparisons of up to kMaxMatch tokens, plus the dead places that it has to step over.
//
// IMPLEMENTATION. One flat block (segment_storage.h): header, namespace prefix, table of documents by rising
// number, text (documents in that order, each after an end mark), order, and the greatest entry of each 1024
// of `order`. Newer documents lie behind older ones in the text, so a higher position is a newer place. 8
// bytes per token.
//
// Segments are made from the documents in RocksDB and can be made again: a file that is damaged is left out.
// The table is checked when a file is opened; text and order are not, so every use of them is bounded: damage
// there gives wrong drafts and is found by CheckIntegrity, but breaks nothing.
//
// Threads: immutable; any number of readers. Tested by tests/retrieval/segment_test.cc.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "retrieval/segment_storage.h"

namespace clamor::retrieval {

inline constexpr uint32_t kMaxMatch = 256;                // tokens of a context that count
inline constexpr uint32_t kMaxSegmentTokens = 64u << 20;  // end marks included

class Segment {
 public:
  static constexpr uint32_t kPeakSpan = 1024;  // entries of `order` under one peak
  using DeadSet = std::vector<bool>;           // by index of the document; a null pointer: all live

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
    uint64_t number;                         // of the document
    uint32_t position;                       // in the document, of the first token that follows
    std::span<const uint32_t> continuation;  // borrowed from the segment
  };

  // A segment of `documents`, of which there is at least one and which come by rising number; on the heap, or
  // in a new file unless `path` is empty.
  static absl::StatusOr<std::shared_ptr<const Segment>> Build(std::string_view prefix,
                                                              std::span<const Source> documents,
                                                              std::string path);
  // A segment of all live documents of `inputs`, at least one, none of them twice. CANCELLED soon after
  // `cancelled` becomes true.
  static absl::StatusOr<std::shared_ptr<const Segment>> Merge(std::string_view prefix,
                                                              std::span<const Input> inputs, std::string path,
                                                              const std::atomic<bool>& cancelled);
  // DATA_LOSS unless header and table make sense.
  static absl::StatusOr<std::shared_ptr<const Segment>> Open(std::string path);

  std::string_view prefix() const { return prefix_; }
  std::span<const Document> documents() const { return documents_; }
  std::span<const uint32_t> Text(const Document& document) const {
    return text_.subspan(document.start, document.size);
  }
  std::optional<size_t> Find(uint64_t number) const;  // index of a document
  uint64_t tokens() const { return tokens_; }
  uint64_t bytes() const { return storage_.size(); }
  const std::string& path() const { return storage_.path(); }  // empty: on the heap

  // How many tokens of the end of `context` (at most kMaxMatch) stand before some live place, or `at_least`
  // if no more do.
  uint32_t LongestMatch(std::span<const uint32_t> context, uint32_t at_least, const DeadSet* dead) const;

  // Appends to `out` the newest `limit` live places before which `suffix` stands, in no order, each with up
  // to `depth` tokens that follow. Leaves out documents with numbers below `oldest`.
  void FindOccurrences(std::span<const uint32_t> suffix, size_t limit, size_t depth, uint64_t oldest,
                       const DeadSet* dead, std::vector<Occurrence>& out) const;

  // Recounts everything: checksums, sorting, every place listed once.
  absl::Status CheckIntegrity() const;

 private:
  explicit Segment(SegmentStorage storage);
  static absl::StatusOr<std::shared_ptr<Segment>> Allocate(std::string_view prefix,
                                                           std::span<const Source> documents,
                                                           std::string path);
  void SetSpans();
  absl::Status CheckTable() const;
  absl::Status CheckBody() const;
  void FillPeaks();
  absl::Status Seal();
  uint64_t TableChecksum() const;
  uint64_t BodyChecksum() const;
  int CompareContext(uint32_t position, std::span<const uint32_t> context) const;
  uint32_t CommonLength(uint32_t position, std::span<const uint32_t> context) const;
  const Document* LiveDocumentAt(uint32_t position, const DeadSet* dead) const;
  uint32_t Bounded(uint32_t entry) const;

  SegmentStorage storage_;
  uint64_t tokens_ = 0;
  std::string_view prefix_;
  std::span<Document> documents_;
  std::span<uint32_t> text_, order_, peaks_;
};

}  // namespace clamor::retrieval
