// The store of what was said before: token documents in, continuations out.
//
// A document is a sequence of token ids under (tenant, tokenizer fingerprint, document id). Draft finds the longest suffix
// of a query that occurs in the namespace and answers with a trie of what followed, with counts. Everything is kept in
// RocksDB with the write-ahead log on: what Append acknowledged is there again after `kill -9`. README.md has the layout
// on disk.
//
// Threads: all methods may be called from any thread.
// Tested by tests/retrieval/suffix_store_test.cc, against a naive search over all documents.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace clamor::retrieval {

// Who may see a document. Drafts never cross namespaces.
struct Namespace {
  std::string tenant;       // 1..128 bytes, any but NUL
  std::string fingerprint;  // of the tokenizer: hex, 1..64 bytes
};

// Continuations of one query, children after parents.
struct Trie {
  struct Node {
    uint32_t token;
    int32_t parent;  // index into nodes, -1: follows the query directly
    uint32_t count;  // how many of the examined occurrences went this way, >= 1
  };
  int32_t match_length = 0;  // tokens of the query's end that matched; 0: no match, no nodes
  uint32_t occurrences = 0;  // examined occurrences of the match
  std::vector<Node> nodes;   // among siblings, higher count first, then lower token
};

struct DraftOptions {
  int32_t max_match = 32;   // longest suffix tried
  int32_t min_match = 2;    // shorter matches answer nothing
  int32_t max_nodes = 64;   // of the trie, best first by path count
  int32_t max_depth = 32;
};

struct Stats {
  uint64_t documents = 0, tokens = 0, bytes_on_disk = 0;
};

struct StoreOptions {
  std::string path;                               // folder, created if missing
  uint64_t max_tokens_per_tenant = 256ull << 20;  // Append over it: RESOURCE_EXHAUSTED
  uint32_t max_document_tokens = 1u << 20;        // longer: INVALID_ARGUMENT
};

class SuffixStore {
 public:
  // FAILED_PRECONDITION names a folder of an unknown format version or one that another process holds open.
  static absl::StatusOr<std::unique_ptr<SuffixStore>> Open(const StoreOptions& options);
  ~SuffixStore();

  // Idempotent per document id: the same id with the same tokens is a no-op (false); with other tokens replaces the
  // document (true). Durable when it returns.
  absl::StatusOr<bool> Append(const Namespace& ns, std::string_view document_id, std::span<const uint32_t> tokens);

  // Removes the document and every trace of it from later drafts. False if there was none.
  absl::StatusOr<bool> DeleteDocument(const Namespace& ns, std::string_view document_id);

  // Removes all documents of a tenant, under every fingerprint, from disk too (compacted before it returns). The number
  // of documents removed.
  absl::StatusOr<uint64_t> DeleteTenant(std::string_view tenant);

  // Continuations of the longest suffix of `context` that occurs. Cost: O(match * log tokens + examined occurrences).
  absl::StatusOr<Trie> Draft(const Namespace& ns, std::span<const uint32_t> context, const DraftOptions& options) const;

  // A consistent copy of the store in `folder` (must not exist), made of hard links where the file system allows.
  absl::Status Checkpoint(const std::string& folder) const;

  // Over all tenants, or one.
  Stats GetStats(std::string_view tenant = {}) const;

  // Recounts everything by brute force: every index entry points at a document that holds its tokens and back. Slow.
  absl::Status CheckIntegrity() const;

 private:
  struct Rep;
  explicit SuffixStore(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

}  // namespace clamor::retrieval
