// The store of what was said before: token documents in, continuations out.
//
// A document is a sequence of token ids under (tenant, tokenizer fingerprint, document id). Draft finds the
// longest suffix of a query that occurs in the namespace and answers with a trie of what followed, with
// counts. Documents are kept in RocksDB with the write-ahead log on: what Append acknowledged is there again
// after `kill -9`. README.md has the layout on disk.
//
// Bad arguments are INVALID_ARGUMENT, stored bytes that make no sense DATA_LOSS, a full disk
// RESOURCE_EXHAUSTED; in each case nothing was changed.
//
// Documents may expire: they go within seconds of that time by the system's clock, however it is set.
//
// Memory: 17 bytes for each of `hot_tokens`, about 1 KiB per namespace, 130 MiB of RocksDB's caches and
// buffers, and of segment files, which are mapped, `mapped_bytes`, or the text of the segment being merged if
// that is more; while a segment is loaded, 4 bytes for each of its tokens. What of the files is not kept in
// that is copied from the system's page cache: a store is quick if that has room for them, 6.5 bytes a token.
//
// Threads: all methods may be called from any thread. Draft never waits for a change.
// Tested by tests/retrieval/suffix_store_test.cc, against a naive search over all documents.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "retrieval/change_log.h"
#include "retrieval/document_db.h"
#include "retrieval/draft.h"
#include "retrieval/key_codec.h"
#include "retrieval/trie.h"

namespace rocksdb {
class Env;
}

namespace clamor::retrieval {

// Tokens of all documents of one AppendBatch; also the most that max_document_tokens can be.
inline constexpr uint32_t kMaxBatchTokens = 4u << 20;

// A document to append.
struct Document {
  std::string_view id;               // 1..256 bytes
  std::span<const uint32_t> tokens;  // 1..max_document_tokens ids below 2^31
  uint64_t expires = 0;              // seconds since 1970; 0: never
};

struct Stats {
  uint64_t documents = 0, tokens = 0, bytes_on_disk = 0, segments = 0;
  uint64_t charged_bytes = 0;  // against quotas: DocumentBytes
};

// A document as it is stored.
struct StoredDocument {
  std::vector<uint32_t> tokens;
  uint64_t expires = 0;
};

// What became of the documents of a loaded segment.
struct LoadOutcome {
  uint64_t stored = 0, unchanged = 0, tokens = 0;  // tokens of those that were stored
};

struct StoreOptions {
  std::string path;                            // folder, created if missing
  uint64_t max_bytes_per_tenant = 4ull << 30;  // by DocumentBytes; adding over it: RESOURCE_EXHAUSTED
  uint32_t max_document_tokens = 1u << 20;     // longer: INVALID_ARGUMENT
  uint32_t hot_tokens = 1u << 20;  // indexed on the heap, over all tenants, before they go into files
  uint64_t min_free_bytes =
      256u << 20;                      // of the disk; adding beyond: RESOURCE_EXHAUSTED. Deleting still works
  uint64_t mapped_bytes = 736u << 20;  // of files in this process's memory: MappedFiles
  // Of segment files, the newest first: read into the system's page cache after the start, so that lookups do
  // not wait for the disk for long.
  uint64_t read_ahead_bytes = 4ull << 30;
  std::function<uint64_t()> clock;  // seconds since 1970; by default the system's
  rocksdb::Env* env = nullptr;      // of what RocksDB writes, outlives the store; null: the system's
};

class SuffixStore {
 public:
  // FAILED_PRECONDITION names a folder of an unknown format version or one that is open already. After a
  // crash, up to 2 x hot_tokens are indexed again before it returns (about 2 million per second).
  static absl::StatusOr<std::unique_ptr<SuffixStore>> Open(const StoreOptions& options);
  ~SuffixStore();

  // Idempotent per document id: the same id with the same tokens is a no-op (false); with other tokens
  // replaces the document (true). Durable when it returns. Said again, a document expires at the later of
  // both times.
  absl::StatusOr<bool> Append(const Namespace& ns, std::string_view document_id,
                              std::span<const uint32_t> tokens, uint64_t expires = 0);

  // As Append for each, in one durable step: all or, on an error, none. Of documents with the same id the
  // last counts, for the others the answer is false. Much faster than one at a time, which waits for the disk
  // each time.
  absl::StatusOr<std::vector<bool>> AppendBatch(const Namespace& ns, std::span<const Document> documents);

  // Adds the documents of a segment that was made outside, as AppendBatch would: all or none, those with an
  // id and tokens that are there already left alone. `path` is a .seg file of bulk_files.h; it is only read.
  // They never expire. Loading again is safe. Changes of the tenant wait meanwhile, drafts do not.
  absl::StatusOr<LoadOutcome> LoadSegment(const std::string& path);

  // Removes the document and every trace of it from later drafts. False if there was none.
  absl::StatusOr<bool> DeleteDocument(const Namespace& ns, std::string_view document_id);

  // Removes all documents of a tenant, under every fingerprint, from disk too (compacted before it returns).
  // The number of documents removed. After an error, calling it again finishes the work.
  absl::StatusOr<uint64_t> DeleteTenant(std::string_view tenant);

  // Removes what has expired, as a thread of the store does every second. How many there were.
  absl::StatusOr<uint64_t> RemoveExpired();

  // Continuations of the longest suffix of `context` that occurs; draft.h says which occurrences count.
  // Cost: for each of O(log tokens) segments, O(log tokens) comparisons of up to max_match tokens and one
  // step for each 1024 occurrences; then O(max_occurrences log max_occurrences).
  absl::StatusOr<Trie> Draft(const Namespace& ns, std::span<const uint32_t> context,
                             const DraftOptions& options) const;

  // A consistent copy of the store in `folder` (must not exist), made of hard links where the file system
  // allows: a store that opens like any other and drafts the same.
  absl::Status Checkpoint(const std::string& folder) const;

  // For whoever keeps a copy: the catalog piece by piece (DocumentDb::List), a document, and what changed
  // since. A change is in the log once it is durable, and before it is acknowledged.
  absl::StatusOr<std::vector<DocumentDb::Listed>> List(std::string_view after, size_t limit) const;
  absl::StatusOr<std::optional<StoredDocument>> Find(const Namespace& ns, std::string_view document_id) const;
  const ChangeLog& changes() const;

  // Over all tenants, or one (whose bytes are approximate).
  Stats GetStats(std::string_view tenant = {}) const;

  // Recounts everything by brute force: every index entry points at a document that holds its tokens and
  // back. Slow, and holds up the changes of one tenant at a time.
  absl::Status CheckIntegrity() const;

 private:
  struct Rep;
  explicit SuffixStore(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

}  // namespace clamor::retrieval
