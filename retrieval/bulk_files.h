// Segments made outside of a store, by as many jobs as there are machines, to be loaded into one later.
//
// A folder holds pairs of files: `<name>.seg` is a segment (segment.h) whose documents have the numbers 1, 2,
// ...,
// `<name>.ids` their ids: 24 bytes of header {magic u32, version u32, ids u64, checksum u64}, then each id
// after its length (u16), all little-endian. The name follows from the content: a job that runs again writes
// the same files, and those of all jobs can be put together into one folder. The ids are there before the
// segment is.
//
// Tested by tests/retrieval/bulk_files_test.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "retrieval/key_codec.h"
#include "retrieval/segment.h"

namespace clamor::retrieval {

// Collects documents of one namespace and writes a segment whenever it has `segment_tokens` of them. Memory:
// about 24 bytes for each of those. Threads: one at a time; several writers may share a folder.
class BulkWriter {
 public:
  // REQUIRES: the namespace is valid, segment_tokens is at most kMaxSegmentTokens / 2.
  BulkWriter(std::string folder, const Namespace& ns, uint32_t segment_tokens);

  // Of documents with the same id in one segment the last counts. INVALID_ARGUMENT for a bad id or token, or
  // a document of no or over segment_tokens tokens.
  absl::Status Add(std::string_view id, std::span<const uint32_t> tokens);

  // Writes what is left. To be called at the end.
  absl::Status Finish();

  uint64_t segments() const { return segments_; }  // written so far

 private:
  struct Range {
    size_t begin, size;  // in tokens_; size 0: another took its place
    std::string_view id;
  };

  const std::string folder_, prefix_;
  const uint32_t segment_tokens_;
  std::vector<uint32_t> tokens_;
  std::vector<Range> documents_;
  std::unordered_map<std::string, size_t> by_id_;  // index in documents_
  uint64_t segments_ = 0;
};

struct BulkSegment {
  Namespace ns;
  std::shared_ptr<const Segment> segment;
  std::vector<std::string> ids;  // of its documents, all different
};

// Opens `path`, a .seg file, and the ids beside it, and checks every bit of them: DATA_LOSS says what is
// wrong. Slow, as Segment::CheckIntegrity is.
absl::StatusOr<BulkSegment> OpenBulkSegment(const std::string& path);

// The .seg files of `folder`, sorted.
absl::StatusOr<std::vector<std::string>> ListBulkSegments(const std::string& folder);

}  // namespace clamor::retrieval
