#include "services/gateway/admission_policy.h"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "services/rpc_error.h"

namespace clamor {
namespace {

constexpr double kLatelyWeight = 1.0 / 32;  // of the last request in what each rank has been getting
constexpr double kLeastShare = 1.0 / 16;    // that a rank is taken to get, whatever higher ones have
constexpr double kMostFollowed = 0.75;      // of all there is, for the highest rank
constexpr double kDefaultBurstSeconds = 10;
constexpr size_t kManyTenants = 4096;
constexpr absl::Duration kShortestRetry = absl::Milliseconds(100), kLongestRetry = absl::Minutes(1);

// Requests come by chance: where there are n on average, there are often so many.
double Often(double requests) { return requests + std::sqrt(requests); }

double BurstOf(const Quota& quota) {
  return quota.burst_tokens > 0 ? quota.burst_tokens : kDefaultBurstSeconds * quota.tokens_per_second;
}

absl::Duration Clamped(absl::Duration retry) { return std::clamp(retry, kShortestRetry, kLongestRetry); }

}  // namespace

const char* RankName(Rank rank) {
  constexpr const char* kNames[kRanks] = {"low", "normal", "high"};
  return kNames[static_cast<size_t>(rank)];
}

absl::StatusOr<bool> AdmissionPolicy::Enter(uint64_t id, AdmissionRequest request, absl::Time now) {
  if (capacity_.largest > 0 && request.longest > capacity_.largest) {
    return Refusal("CONTEXT_TOO_LONG",
                   absl::StrCat("prompt and answer of ", request.longest, " tokens exceed the ",
                                capacity_.largest, " that the largest worker can hold"));
  }
  ForgetIdle(now);
  Count(now);
  Tenant& tenant = tenants_[request.tenant];
  tenant.quota = request.quota;
  Fill(tenant, now);
  CLAMOR_RETURN_IF_ERROR(CheckQuota(tenant, request));
  // While anybody waits, whose turn it is is for Advance to say.
  const bool runs =
      std::all_of(waiting_.begin(), waiting_.end(), [](int64_t n) { return n == 0; }) && HasRoom(request);
  if (!runs) CLAMOR_RETURN_IF_ERROR(CheckQueue(request));
  CLAMOR_RETURN_IF_ERROR(CheckDeadline(request, runs, now));
  ++tenant.requests;
  if (request.quota.tokens_per_second > 0) tenant.level -= static_cast<double>(request.tokens);
  Entry& entry = entries_[id];
  entry = {.request = std::move(request), .tenant = &tenant, .since = now};
  const size_t rank = static_cast<size_t>(entry.rank());
  ++waiting_[rank];
  waiting_tokens_[rank] += entry.request.tokens;
  if (runs) Run(entry, now);
  return runs;
}

void AdmissionPolicy::Fill(Tenant& tenant, absl::Time now) {
  const double burst = BurstOf(tenant.quota);
  if (tenant.filled == absl::InfinitePast()) {
    tenant.level = burst;
    tenant.filled = now;
  }
  const double seconds = std::max(0.0, absl::ToDoubleSeconds(now - tenant.filled));
  tenant.level = std::min(burst, tenant.level + tenant.quota.tokens_per_second * seconds);
  tenant.filled = std::max(now, tenant.filled);
}

// The bucket may go below zero by one request, however large, and must then fill up before the next.
absl::Status AdmissionPolicy::CheckQuota(const Tenant& tenant, const AdmissionRequest& request) const {
  const Quota& quota = request.quota;
  if (quota.requests > 0 && tenant.requests >= quota.requests) {
    return Refusal("TENANT_QUOTA",
                   absl::StrCat("the tenant has ", tenant.requests, " requests, limit ", quota.requests),
                   Clamped(Takes(request.tokens)));
  }
  if (quota.tokens_per_second <= 0 || tenant.level > 0) return absl::OkStatus();
  return Refusal("TENANT_QUOTA",
                 absl::StrCat("the tenant is over its ", quota.tokens_per_second, " tokens a second"),
                 Clamped(absl::Seconds((1 - tenant.level) / quota.tokens_per_second)));
}

absl::Status AdmissionPolicy::CheckQueue(const AdmissionRequest& request) const {
  const size_t rank = static_cast<size_t>(request.rank);
  if (waiting_[rank] < options_.queue[rank]) return absl::OkStatus();
  return Refusal("QUEUE_FULL",
                 absl::StrCat(waiting_[rank], " requests of ", RankName(request.rank),
                              " priority wait, limit ", options_.queue[rank]),
                 Retry());
}

absl::Status AdmissionPolicy::CheckDeadline(const AdmissionRequest& request, bool runs,
                                            absl::Time now) const {
  const bool quiet = capacity_.requests == 0 || 3 * (running_requests_ + 1) <= 2 * capacity_.requests;
  if (runs && quiet) return absl::OkStatus();
  if (running_requests_ == 0) return absl::OkStatus();  // else nothing would ever be learned again
  absl::Duration needed = absl::Seconds(pace_.AtMost(AtOnce()) * static_cast<double>(request.tokens));
  if (!runs) {
    int64_t ahead = running_tokens_ / running_requests_;  // until one of those that run is over, too
    for (size_t r = static_cast<size_t>(request.rank); r < kRanks; ++r) ahead += waiting_tokens_[r];
    needed += WaitBehind(ahead, request.rank);
  }
  if (now + needed <= request.deadline) return absl::OkStatus();
  const auto text = [](absl::Duration d) {
    return absl::FormatDuration(absl::Trunc(d, absl::Milliseconds(1)));
  };
  return Refusal(
      "QUEUE_FULL",
      absl::StrCat("it would take ", text(needed), ", the deadline is in ", text(request.deadline - now)),
      Retry());
}

absl::Duration AdmissionPolicy::Retry() const {
  return Clamped(WaitBehind(waiting_tokens_[0] + waiting_tokens_[1] + waiting_tokens_[2], Rank::kHigh));
}

void AdmissionPolicy::Count(absl::Time now) {
  if (counted_ != absl::InfinitePast() && now > counted_) {
    constexpr size_t kTop = static_cast<size_t>(Rank::kHigh);
    const absl::Duration passed = now - counted_;
    request_seconds_ += absl::ToDoubleSeconds(passed) * static_cast<double>(running_requests_);
    if (options_.follow > absl::ZeroDuration()) {
      const double part = 1 - std::exp(-absl::FDivDuration(passed, options_.follow));
      usual_requests_ += part * (static_cast<double>(running_by_rank_[kTop]) - usual_requests_);
      usual_tokens_ += part * (static_cast<double>(running_tokens_by_rank_[kTop]) - usual_tokens_);
    }
  }
  counted_ = std::max(counted_, now);
}

int64_t AdmissionPolicy::ReservedRequests(size_t rank) const {
  const double all = static_cast<double>(capacity_.requests), share = options_.reserved[rank] * all;
  if (rank != static_cast<size_t>(Rank::kHigh)) return static_cast<int64_t>(share);
  return static_cast<int64_t>(std::max(share, std::min(Often(usual_requests_), kMostFollowed * all)));
}

int64_t AdmissionPolicy::ReservedTokens(size_t rank) const {
  const double all = static_cast<double>(capacity_.tokens), share = options_.reserved[rank] * all;
  if (rank != static_cast<size_t>(Rank::kHigh) || usual_requests_ <= 0) return static_cast<int64_t>(share);
  const double often = usual_tokens_ * (1 + 1 / std::sqrt(usual_requests_));
  return static_cast<int64_t>(std::max(share, std::min(often, kMostFollowed * all)));
}

bool AdmissionPolicy::HasRoom(const AdmissionRequest& request) const {
  if (running_requests_ == 0) return true;  // whatever it costs: it fits in a worker
  int64_t requests = running_requests_ + 1, tokens = running_tokens_ + request.tokens;
  if (request.rank == Rank::kHigh) requests -= running_by_rank_[static_cast<size_t>(Rank::kNormal)];
  for (size_t r = 0; r < kRanks; ++r) {
    if (r == static_cast<size_t>(request.rank)) continue;
    requests += std::max<int64_t>(0, ReservedRequests(r) - running_by_rank_[r]);
    tokens += std::max<int64_t>(0, ReservedTokens(r) - running_tokens_by_rank_[r]);
  }
  return (capacity_.requests == 0 || requests <= capacity_.requests) &&
         (capacity_.tokens == 0 || tokens <= capacity_.tokens);
}

bool AdmissionPolicy::InReserve(const AdmissionRequest& request) const {
  const size_t rank = static_cast<size_t>(request.rank);
  return (capacity_.requests == 0 || running_by_rank_[rank] + 1 <= ReservedRequests(rank)) &&
         (capacity_.tokens == 0 || running_tokens_by_rank_[rank] + request.tokens <= ReservedTokens(rank));
}

size_t AdmissionPolicy::RankNow(const Entry& entry, absl::Time now) const {
  const double steps =
      std::floor(std::max(0.0, absl::FDivDuration(now - entry.since, options_.promote_after)));
  return static_cast<size_t>(
      std::min(static_cast<double>(kRanks - 1), static_cast<double>(entry.rank()) + steps));
}

// Who is next and may run. While one with a better claim cannot, others run only on what is reserved for
// their rank, and those of its own rank not at all: it would never get what it needs.
std::optional<AdmissionPolicy::Waiting> AdmissionPolicy::NextToRun(absl::Time now) {
  std::vector<std::tuple<int64_t, int64_t, uint64_t>> order;  // rank now, tenant's tokens, id: best first
  for (const auto& [id, entry] : entries_) {
    if (entry.runs) continue;
    order.emplace_back(-static_cast<int64_t>(RankNow(entry, now)), entry.tenant->running_tokens, id);
  }
  std::sort(order.begin(), order.end());
  std::array<bool, kRanks> blocked{};
  bool any_blocked = false;
  for (const auto& [rank, tokens, id] : order) {
    const Waiting it = entries_.find(id);
    const AdmissionRequest& request = it->second.request;
    bool& own_blocked = blocked[static_cast<size_t>(request.rank)];
    if (own_blocked) continue;
    if (HasRoom(request) && (!any_blocked || InReserve(request))) return it;
    own_blocked = any_blocked = true;
  }
  return std::nullopt;
}

void AdmissionPolicy::Run(Entry& entry, absl::Time now) {
  const size_t rank = static_cast<size_t>(entry.rank());
  --waiting_[rank];
  waiting_tokens_[rank] -= entry.request.tokens;
  ++running_requests_;
  running_tokens_ += entry.request.tokens;
  ++running_by_rank_[rank];
  running_tokens_by_rank_[rank] += entry.request.tokens;
  entry.tenant->running_tokens += entry.request.tokens;
  for (double& tokens : lately_) tokens *= 1 - kLatelyWeight;
  lately_[rank] += static_cast<double>(entry.request.tokens);
  entry.runs = true;
  entry.since = now;
  entry.request_seconds = request_seconds_;
}

std::vector<AdmissionPolicy::Change> AdmissionPolicy::Advance(absl::Time now) {
  Count(now);
  std::vector<Change> changes;
  for (const auto& [id, entry] : entries_) {
    if (entry.runs || now + Takes(entry.request.tokens) <= entry.request.deadline) continue;
    changes.push_back(
        {id, Refusal("DEADLINE", absl::StrCat("it waited for ", absl::FormatDuration(now - entry.since),
                                              " and cannot be done in time any more"))});
  }
  for (const Change& change : changes) Leave(change.id, 0, now);
  while (const auto next = NextToRun(now)) {
    Run((*next)->second, now);
    changes.push_back({(*next)->first, absl::OkStatus()});
  }
  return changes;
}

void AdmissionPolicy::Leave(uint64_t id, int64_t used, absl::Time now) {
  const auto it = entries_.find(id);
  if (it == entries_.end()) return;
  Count(now);
  Entry& entry = it->second;
  const size_t rank = static_cast<size_t>(entry.rank());
  const int64_t tokens = entry.request.tokens;
  --entry.tenant->requests;
  if (entry.request.quota.tokens_per_second > 0) {  // what it did not use is given back
    entry.tenant->level += static_cast<double>(std::max<int64_t>(0, tokens - used));
  }
  if (!entry.runs) {
    --waiting_[rank];
    waiting_tokens_[rank] -= tokens;
  } else {
    --running_requests_;
    running_tokens_ -= tokens;
    --running_by_rank_[rank];
    running_tokens_by_rank_[rank] -= tokens;
    entry.tenant->running_tokens -= tokens;
    const double seconds = absl::ToDoubleSeconds(now - entry.since);
    if (used > 0 && tokens > 0 && seconds > 0) {
      pace_.Add(seconds / static_cast<double>(tokens), (request_seconds_ - entry.request_seconds) / seconds);
    }
  }
  entries_.erase(it);
}

// Of high priority there may be more soon.
double AdmissionPolicy::AtOnce() const {
  const double high = static_cast<double>(running_by_rank_[static_cast<size_t>(Rank::kHigh)]);
  const double all =
      static_cast<double>(running_requests_) - high + std::max(high, Often(usual_requests_)) + 1;
  return capacity_.requests == 0 ? all : std::min(all, static_cast<double>(capacity_.requests));
}

absl::Duration AdmissionPolicy::Takes(int64_t tokens) const {
  return absl::Seconds(pace_.Mean(AtOnce()) * static_cast<double>(tokens));
}

// Those of higher ranks that are yet to come go first as well: they get what they have been getting.
absl::Duration AdmissionPolicy::WaitBehind(int64_t tokens, Rank rank) const {
  const double at_once = static_cast<double>(std::max<int64_t>(1, running_requests_));
  const double left = std::max(kLeastShare, 1 - ShareAbove(rank));
  return absl::Seconds(pace_.AtMost(at_once) * static_cast<double>(tokens)) / (at_once * left);
}

double AdmissionPolicy::ShareAbove(Rank rank) const {
  double above = 0, all = 0;
  for (size_t r = 0; r < kRanks; ++r) {
    all += lately_[r];
    if (r > static_cast<size_t>(rank)) above += lately_[r];
  }
  return all > 0 ? above / all : 0;
}

absl::Time AdmissionPolicy::NextChange(absl::Time now) const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto& [id, entry] : entries_) {
    if (entry.runs) continue;
    next = std::min(next, entry.request.deadline - Takes(entry.request.tokens) + absl::Nanoseconds(1));
    for (size_t step = 1; step < kRanks; ++step) {
      const absl::Time promoted = entry.since + static_cast<double>(step) * options_.promote_after;
      if (promoted > now) next = std::min(next, promoted);
    }
  }
  return next;
}

// Tenants come without end. One that has nothing here and a full bucket is as one that never came.
void AdmissionPolicy::ForgetIdle(absl::Time now) {
  if (tenants_.size() < kManyTenants) return;
  std::erase_if(tenants_, [now](const auto& named) {
    Tenant tenant = named.second;
    Fill(tenant, now);
    return tenant.requests == 0 && tenant.level >= BurstOf(tenant.quota);
  });
}

absl::Status AdmissionPolicy::CheckIntegrity() const {
  std::array<int64_t, kRanks> waiting{}, waiting_tokens{}, running{}, running_tokens{};
  std::map<const Tenant*, std::pair<int64_t, int64_t>> tenants;  // requests, running tokens
  for (const auto& [id, entry] : entries_) {
    const size_t rank = static_cast<size_t>(entry.rank());
    ++(entry.runs ? running : waiting)[rank];
    (entry.runs ? running_tokens : waiting_tokens)[rank] += entry.request.tokens;
    auto& [requests, tokens] = tenants[entry.tenant];
    ++requests;
    tokens += entry.runs ? entry.request.tokens : 0;
  }
  int64_t requests = 0, tokens = 0;
  for (size_t r = 0; r < kRanks; ++r) {
    requests += running[r];
    tokens += running_tokens[r];
    if (waiting[r] > options_.queue[r]) return absl::InternalError("a queue is over its limit");
  }
  const bool counted = waiting == waiting_ && waiting_tokens == waiting_tokens_ &&
                       running == running_by_rank_ && running_tokens == running_tokens_by_rank_ &&
                       requests == running_requests_ && tokens == running_tokens_;
  if (!counted) return absl::InternalError("the counts are not those of the entries");
  for (const auto& [name, tenant] : tenants_) {
    const auto it = tenants.find(&tenant);
    const auto expected = it == tenants.end() ? std::pair<int64_t, int64_t>() : it->second;
    if (expected != std::pair(tenant.requests, tenant.running_tokens)) {
      return absl::InternalError(absl::StrCat("the counts of tenant ", name, " are wrong"));
    }
  }
  return absl::OkStatus();
}

}  // namespace clamor
