// Several retrieval servers as one: each keeps the documents of some namespaces, and may have a follower.
//
// Which server a namespace belongs to follows from the names and the number of servers alone (rendezvous
// hashing): another server at the end of the list takes over its share of all namespaces and moves no other.
// What was stored elsewhere before is not found any more, which costs speed and nothing else.
//
// Threads: as ContinuationSource. Tested by tests/services/worker/retrieval_shards_test.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "model/spec/continuation_source.h"

namespace clamor {

// Addresses, HOST:PORT.
struct RetrievalShard {
  std::string leader;
  std::string follower;  // empty: none
  bool operator==(const RetrievalShard&) const = default;
};

// Of "LEADER[|FOLLOWER],...". INVALID_ARGUMENT says which part is empty, or has more than one follower.
absl::StatusOr<std::vector<RetrievalShard>> ParseRetrievalShards(std::string_view text);

// Which of `shards` servers keeps the tenant's documents. REQUIRES: shards > 0.
size_t ShardOf(std::string_view tenant, std::string_view tokenizer_fingerprint, size_t shards);

// Asks each server for the tenants that it keeps.
class ShardedSource final : public ContinuationSource {
 public:
  ShardedSource(std::vector<std::unique_ptr<ContinuationSource>> shards, std::string tokenizer_fingerprint);

  void Ask(uint64_t sequence, std::span<const std::string_view> tenants, std::span<const int32_t> context,
           int64_t position) override;
  std::optional<Answer> Take(uint64_t sequence) override;
  bool Await(absl::Time deadline) override;
  void Forget(uint64_t sequence) override;

 private:
  const std::vector<std::unique_ptr<ContinuationSource>> shards_;
  const std::string tokenizer_fingerprint_;
  absl::flat_hash_map<uint64_t, std::vector<size_t>> asked_;  // of each sequence, the first tenant's first
};

}  // namespace clamor
