#include "services/worker/retrieval_shards.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace clamor {
namespace {

// FNV-1a, and the end of MurmurHash3 so that all bits depend on all: the same everywhere, now and later.
uint64_t Hash(std::string_view bytes) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char byte : bytes) hash = (hash ^ static_cast<uint8_t>(byte)) * 0x100000001b3;
  hash = (hash ^ hash >> 33) * 0xff51afd7ed558ccd;
  hash = (hash ^ hash >> 33) * 0xc4ceb9fe1a85ec53;
  return hash ^ hash >> 33;
}

}  // namespace

absl::StatusOr<std::vector<RetrievalShard>> ParseRetrievalShards(std::string_view text) {
  std::vector<RetrievalShard> shards;
  for (const absl::string_view part : absl::StrSplit(absl::string_view(text.data(), text.size()), ',')) {
    const std::vector<std::string> addresses = absl::StrSplit(part, '|');
    if (addresses.size() > 2 || addresses[0].empty() || addresses.back().empty()) {
      return absl::InvalidArgumentError(absl::StrCat("server ", shards.size() + 1, " of --retrieval is \"",
                                                     part,
                                                     "\", must be HOST:PORT or HOST:PORT|FOLLOWER:PORT"));
    }
    shards.push_back({addresses[0], addresses.size() == 2 ? addresses[1] : ""});
  }
  return shards;
}

size_t ShardOf(std::string_view tenant, std::string_view tokenizer_fingerprint, size_t shards) {
  size_t best = 0;
  uint64_t most = 0;
  for (size_t shard = 0; shard < shards; ++shard) {
    const std::string name(
        absl::StrCat(shard, "/", absl::string_view(tenant.data(), tenant.size()), "/",
                     absl::string_view(tokenizer_fingerprint.data(), tokenizer_fingerprint.size())));
    const uint64_t weight = Hash(name);
    if (shard > 0 && weight <= most) continue;
    most = weight;
    best = shard;
  }
  return best;
}

ShardedSource::ShardedSource(std::vector<std::unique_ptr<ContinuationSource>> shards,
                             std::string tokenizer_fingerprint)
    : shards_(std::move(shards)), tokenizer_fingerprint_(std::move(tokenizer_fingerprint)) {}

void ShardedSource::Ask(uint64_t sequence, std::span<const std::string_view> tenants,
                        std::span<const int32_t> context, int64_t position) {
  std::vector<size_t>& asked = asked_[sequence];
  asked.clear();
  for (const std::string_view tenant : tenants) {
    const size_t shard = ShardOf(tenant, tokenizer_fingerprint_, shards_.size());
    if (std::ranges::find(asked, shard) != asked.end()) continue;
    asked.push_back(shard);
    std::vector<std::string_view> kept;
    std::ranges::copy_if(tenants, std::back_inserter(kept), [&](std::string_view each) {
      return ShardOf(each, tokenizer_fingerprint_, shards_.size()) == shard;
    });
    shards_[shard]->Ask(sequence, kept, context, position);
  }
}

std::optional<ContinuationSource::Answer> ShardedSource::Take(uint64_t sequence) {
  std::optional<Answer> best;
  const auto asked = asked_.find(sequence);
  if (asked == asked_.end()) return best;
  for (const size_t shard : asked->second) {
    std::optional<Answer> answer = shards_[shard]->Take(sequence);
    if (!answer) continue;
    const bool better =
        !best || answer->position > best->position ||
        (answer->position == best->position && answer->trie.match_length > best->trie.match_length);
    if (better) best = std::move(answer);
  }
  return best;
}

bool ShardedSource::Await(absl::Time deadline) {
  bool quiet = true;
  for (const auto& shard : shards_) quiet = shard->Await(deadline) && quiet;
  return quiet;
}

void ShardedSource::Forget(uint64_t sequence) {
  for (const auto& shard : shards_) shard->Forget(sequence);
  asked_.erase(sequence);
}

}  // namespace clamor
