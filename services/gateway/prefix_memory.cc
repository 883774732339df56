#include "services/gateway/prefix_memory.h"

#include <algorithm>

#include "absl/hash/hash.h"

namespace clamor {
namespace {

// The hashes of a prompt's beginnings, shortest first. absl::Hash is salted anew in every process.
std::vector<uint64_t> BeginningsOf(uint64_t tenant, std::span<const uint32_t> prompt) {
  std::vector<uint64_t> keys;
  uint64_t key = tenant;
  for (size_t end = PrefixMemory::kBlock; end <= prompt.size() && keys.size() < PrefixMemory::kMaxBlocks;
       end += PrefixMemory::kBlock) {
    const auto block = prompt.first(end).last(PrefixMemory::kBlock);
    key = absl::HashOf(key, std::vector<uint32_t>(block.begin(), block.end()));
    keys.push_back(key);
  }
  return keys;
}

}  // namespace

std::vector<PrefixMemory::Match> PrefixMemory::Find(absl::string_view tenant,
                                                    std::span<const uint32_t> prompt) const {
  const std::vector<uint64_t> keys = BeginningsOf(absl::HashOf(tenant), prompt);
  std::vector<Match> matches;
  for (size_t i = keys.size(); i-- > 0;) {
    const auto it = places_.find(keys[i]);
    if (it == places_.end()) continue;
    const std::string& worker = it->second->worker;
    const bool known = std::any_of(matches.begin(), matches.end(),
                                   [&worker](const Match& match) { return match.worker == worker; });
    if (!known) matches.push_back({worker, (i + 1) * kBlock});
  }
  return matches;
}

void PrefixMemory::Add(absl::string_view tenant, std::span<const uint32_t> prompt,
                       const std::string& worker) {
  const uint64_t owner = absl::HashOf(tenant);
  const std::vector<uint64_t> keys = BeginningsOf(owner, prompt);
  // The shortest last: it is the one that most prompts share, and should go last.
  for (size_t i = keys.size(); i-- > 0;) {
    const auto it = places_.find(keys[i]);
    if (it != places_.end()) {
      it->second->worker = worker;
      by_use_.splice(by_use_.begin(), by_use_, it->second);
      continue;
    }
    by_use_.push_front({keys[i], owner, worker});
    places_.emplace(keys[i], by_use_.begin());
  }
  while (by_use_.size() > entries_) {
    places_.erase(by_use_.back().key);
    by_use_.pop_back();
  }
}

template <class Gone>
void PrefixMemory::Erase(Gone gone) {
  for (auto it = by_use_.begin(); it != by_use_.end();) {
    if (!gone(*it)) {
      ++it;
      continue;
    }
    places_.erase(it->key);
    it = by_use_.erase(it);
  }
}

void PrefixMemory::ForgetTenant(absl::string_view tenant) {
  Erase([owner = absl::HashOf(tenant)](const Entry& entry) { return entry.tenant == owner; });
}

void PrefixMemory::ForgetWorker(absl::string_view worker) {
  Erase([worker](const Entry& entry) { return entry.worker == worker; });
}

}  // namespace clamor
