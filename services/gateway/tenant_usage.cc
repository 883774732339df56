#include "services/gateway/tenant_usage.h"

namespace clamor {

void TenantUsage::Add(const std::string& tenant, uint64_t prompt_tokens, uint64_t completion_tokens) {
  absl::MutexLock lock(&mu_);
  auto it = tenants_.find(tenant);
  if (it == tenants_.end()) it = tenants_.try_emplace(tenants_.size() < kTenants ? tenant : kOthers).first;
  Numbers& numbers = it->second;
  ++numbers.requests;
  numbers.prompt_tokens += prompt_tokens;
  numbers.completion_tokens += completion_tokens;
}

void TenantUsage::Forget(const std::string& tenant) {
  absl::MutexLock lock(&mu_);
  tenants_.erase(tenant);
}

std::map<std::string, TenantUsage::Numbers> TenantUsage::Get(const std::string& after, size_t limit) const {
  absl::MutexLock lock(&mu_);
  std::map<std::string, Numbers> found;
  // The others have the empty name, which is before all: they come with the first page.
  for (auto it = after.empty() ? tenants_.begin() : tenants_.upper_bound(after);
       it != tenants_.end() && found.size() < limit; ++it) {
    found.insert(*it);
  }
  return found;
}

}  // namespace clamor
