#include "services/gateway/successor_search.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"

namespace clamor {

SuccessorSearch::SuccessorSearch(Find find) : find_(std::move(find)), thread_([this] { Run(); }) {}

SuccessorSearch::~SuccessorSearch() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  thread_.join();
}

uint64_t SuccessorSearch::Begin(Wanted wanted, absl::Time deadline, Found found) {
  absl::MutexLock lock(&mu_);
  changed_ = true;
  searches_.emplace(next_ticket_, Search{std::move(wanted), deadline, std::move(found)});
  return next_ticket_++;
}

void SuccessorSearch::GiveUp(uint64_t ticket) {
  absl::MutexLock lock(&mu_);
  const auto it = searches_.find(ticket);
  if (it == searches_.end()) return;
  it->second.deadline = absl::InfinitePast();
  changed_ = true;
}

void SuccessorSearch::FleetChanged() {
  absl::MutexLock lock(&mu_);
  changed_ = true;
}

// Takes out the first search from ticket `from` on that can end; `from` is then the ticket behind it.
std::optional<SuccessorSearch::End> SuccessorSearch::NextEnd(uint64_t* from) {
  const absl::Time now = absl::Now();
  for (auto it = searches_.lower_bound(*from); it != searches_.end(); ++it) {
    const Search& search = it->second;
    const bool given_up = search.deadline == absl::InfinitePast();
    std::optional<WorkerLease> lease = given_up ? std::nullopt : find_(search.wanted);
    if (!lease && now < search.deadline) continue;
    *from = it->first + 1;
    return End{searches_.extract(it).mapped().found, std::move(lease)};
  }
  return std::nullopt;
}

void SuccessorSearch::Run() {
  absl::MutexLock lock(&mu_);
  while (!stopping_) {
    absl::Time next = absl::InfiniteFuture();
    for (const auto& [ticket, search] : searches_) next = std::min(next, search.deadline);
    const auto wanted = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return changed_ || stopping_; };
    mu_.AwaitWithDeadline(absl::Condition(&wanted), next);
    changed_ = false;
    uint64_t from = 0;
    while (std::optional<End> end = NextEnd(&from)) {
      mu_.Unlock();
      end->found(std::move(end->lease));
      mu_.Lock();
    }
  }
}

}  // namespace clamor
