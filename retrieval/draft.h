// From a context to a trie of continuations, over the parts of a namespace.
//
// Tested by tests/retrieval/segment_test.cc, against a naive search over all documents.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "retrieval/segment.h"
#include "retrieval/trie.h"

namespace clamor::retrieval {

// What is asked of a draft. An occurrence of a suffix is a place in a document where it stands with at least
// one more token behind it. Among the occurrences of the longest suffix that has any, the newest are
// examined: of the document appended last, then of the highest position in it. While the trie has room, so
// are those of the suffix half as long, and half as long again: what followed a short context often is an
// alternative to what followed a long one once.
struct DraftOptions {
  int32_t max_match = 32;        // longest suffix tried, 1..256
  int32_t min_match = 2;         // shorter matches answer nothing, 1..max_match
  int32_t max_nodes = 64;        // of the trie, best first by path count, 1..1024
  int32_t max_depth = 32;        // of the trie, 1..256
  int32_t max_occurrences = 64;  // examined, 1..4096

  absl::Status Validate() const;  // INVALID_ARGUMENT names the field, its value and its limits
};

// A segment, and which of its documents have been dropped since it was built.
struct Part {
  std::shared_ptr<const Segment> segment;
  std::shared_ptr<const Segment::DeadSet> dead;  // null: none
  uint64_t dead_tokens = 0;
};
using Parts = std::vector<Part>;

// REQUIRES: options are valid.
Trie Draft(const Parts& parts, std::span<const uint32_t> context, const DraftOptions& options);

}  // namespace clamor::retrieval
