#include "services/worker/knowledge_pool.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"

namespace clamor {

std::shared_ptr<DraftKnowledge> KnowledgePool::Get(const std::string& tenant) {
  Entry& entry = tenants_[tenant];
  if (entry.knowledge == nullptr && files_ != nullptr) entry.knowledge = files_->Read(tenant);
  if (entry.knowledge == nullptr) entry.knowledge = std::make_shared<DraftKnowledge>();
  entry.last_use = ++uses_;
  if (files_ != nullptr) entry.due = std::min(entry.due, absl::Now() + files_->interval());
  std::shared_ptr<DraftKnowledge> knowledge = entry.knowledge;
  if (tenants_.size() > kTenants) Forget();
  return knowledge;
}

void KnowledgePool::Drop(const std::string& tenant) {
  tenants_.erase(tenant);
  if (files_ != nullptr) files_->Remove(tenant);
}

// If the files have no place for it, what was learned since it was last due is lost.
void KnowledgePool::Forget() {
  const auto oldest = std::min_element(tenants_.begin(), tenants_.end(), [](const auto& a, const auto& b) {
    return a.second.last_use < b.second.last_use;
  });
  Entry& entry = oldest->second;
  if (entry.due != absl::InfiniteFuture()) {
    const bool settled = entry.knowledge.use_count() == 1;
    files_->Write(oldest->first,
                  settled ? std::move(entry.knowledge) : std::make_shared<DraftKnowledge>(*entry.knowledge),
                  absl::InfinitePast());
  }
  tenants_.erase(oldest);
}

absl::Time KnowledgePool::SaveDue(absl::Time now) {
  const auto first = std::min_element(tenants_.begin(), tenants_.end(), [](const auto& a, const auto& b) {
    return a.second.due < b.second.due;
  });
  if (first == tenants_.end()) return absl::InfiniteFuture();
  Entry& entry = first->second;
  if (entry.due > now) return entry.due;
  if (files_->Idle()) {
    files_->Write(first->first, std::make_shared<DraftKnowledge>(*entry.knowledge), absl::InfinitePast());
    const bool settled = entry.knowledge.use_count() == 1;  // no sequence goes on learning
    entry.due = settled ? absl::InfiniteFuture() : now + files_->interval();
  }
  return now + absl::Seconds(1);
}

void KnowledgePool::SaveAll(absl::Time deadline) {
  if (files_ == nullptr) return;
  for (auto& [tenant, entry] : tenants_) {
    if (entry.due == absl::InfiniteFuture()) continue;
    files_->Write(tenant, std::make_shared<DraftKnowledge>(*entry.knowledge), deadline);
    entry.due = absl::InfiniteFuture();
  }
  files_->Flush(deadline);
}

}  // namespace clamor
