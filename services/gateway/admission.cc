#include "services/gateway/admission.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/time/clock.h"
#include "services/gateway/answer_calls.h"

namespace clamor {
namespace {

constexpr absl::Duration kMeasureEvery = absl::Milliseconds(100);
constexpr uint32_t kAtHand = 8;  // for so many places of a batch one request more

Rank RankOf(v1::Priority priority) {
  switch (priority) {
    case v1::PRIORITY_LOW:
      return Rank::kLow;
    case v1::PRIORITY_HIGH:
      return Rank::kHigh;
    default:
      return Rank::kNormal;
  }
}

// Quotas and waits go on when somebody sets the machine's clock.
absl::Time SteadyNow() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

}  // namespace

Capacity CapacityOf(const std::vector<WorkerSnapshot>& workers, const std::string& model) {
  Capacity sum;
  bool all_tell_requests = true, all_tell_tokens = true;
  for (const WorkerSnapshot& worker : workers) {
    if (worker.state != v1::WORKER_STATE_READY || worker.model == nullptr ||
        worker.model->info().name() != model) {
      continue;
    }
    const v1::WorkerLoad& load = worker.load;
    const int64_t tokens = static_cast<int64_t>(load.kv_pages_total() * load.kv_page_tokens());
    const int64_t of_others =
        std::max<int64_t>(0, static_cast<int64_t>(load.running() + load.waiting()) - worker.streams_at_poll);
    const int64_t places = load.max_running() + (load.max_running() + kAtHand - 1) / kAtHand;
    all_tell_tokens &= tokens > 0;
    all_tell_requests &= load.max_running() > 0;
    sum.tokens += tokens;
    sum.largest = std::max(sum.largest, tokens);
    sum.requests += std::max<int64_t>(1, places - of_others);
  }
  if (!all_tell_tokens) sum.tokens = sum.largest = 0;
  if (!all_tell_requests) sum.requests = 0;
  return sum;
}

AdmissionRequest AdmissionRequestOf(const v1::WorkerServiceStreamGenerateRequest& request, const Quota& quota,
                                    absl::Time deadline, const AdmissionOptions& options) {
  const v1::GenerationOptions& asked = request.options();
  const int64_t prompt = request.prompt_ids_size();
  const int64_t answer = asked.has_max_tokens() ? asked.max_tokens() : options.expected_answer;
  return {.tenant = request.tenant(),
          .quota = quota,
          .rank = RankOf(asked.priority()),
          .tokens = prompt + static_cast<int64_t>(AnswersOf(request)) * answer,
          .longest = prompt + (asked.has_max_tokens() ? asked.max_tokens() : 1),
          .deadline = deadline};
}

Admission::Admission(const AdmissionOptions& options, const Authenticator* authenticator, Workers workers)
    : options_(options),
      authenticator_(authenticator),
      workers_(std::move(workers)),
      thread_([this] { Run(); }) {}

Admission::~Admission() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  thread_.join();
}

absl::StatusOr<bool> Admission::Enter(uint64_t ticket, const std::string& model,
                                      const v1::WorkerServiceStreamGenerateRequest& request,
                                      absl::Time deadline, Entered entered) {
  const absl::Time now = SteadyNow();
  AdmissionRequest asked = AdmissionRequestOf(request, authenticator_->QuotaOf(request.tenant()),
                                              now + (deadline - absl::Now()), options_);
  absl::MutexLock lock(&mu_);
  Gate& gate = gates_.try_emplace(model, options_).first->second;
  Measure(model, gate, now);
  absl::StatusOr<bool> runs = gate.policy.Enter(ticket, std::move(asked), now);
  if (!runs.ok()) return runs;
  places_.emplace(ticket, Place{.gate = &gate, .entered = *runs ? nullptr : std::move(entered)});
  changed_ |= !*runs;
  return runs;
}

void Admission::GiveUp(uint64_t ticket) {
  absl::MutexLock lock(&mu_);
  const auto it = places_.find(ticket);
  if (it == places_.end() || it->second.entered == nullptr) return;
  it->second.given_up = changed_ = true;
}

void Admission::Leave(uint64_t ticket, int64_t used) {
  absl::MutexLock lock(&mu_);
  const auto it = places_.find(ticket);
  if (it == places_.end()) return;
  it->second.gate->policy.Leave(ticket, used, SteadyNow());
  places_.erase(it);
  changed_ = true;
}

int64_t Admission::waiting(Rank rank) const {
  absl::MutexLock lock(&mu_);
  int64_t sum = 0;
  for (const auto& [model, gate] : gates_) sum += gate.policy.waiting(rank);
  return sum;
}

void Admission::Measure(const std::string& model, Gate& gate, absl::Time now) {
  if (now - gate.measured < kMeasureEvery && now >= gate.measured) return;
  gate.measured = now;
  gate.policy.SetCapacity(CapacityOf(workers_(), model));
}

// What has come of those who waited.
std::vector<Admission::End> Admission::Advance() {
  std::vector<End> ends;
  const absl::Time now = SteadyNow();
  for (auto it = places_.begin(); it != places_.end();) {
    if (!it->second.given_up) {
      ++it;
      continue;
    }
    it->second.gate->policy.Leave(it->first, 0, now);
    ends.push_back({std::move(it->second.entered), absl::CancelledError("given up while it waited")});
    it = places_.erase(it);
  }
  for (auto& [model, gate] : gates_) {
    Measure(model, gate, now);
    for (AdmissionPolicy::Change& change : gate.policy.Advance(now)) {
      const auto it = places_.find(change.id);
      ends.push_back({std::exchange(it->second.entered, nullptr), change.status});
      if (!change.status.ok()) places_.erase(it);
    }
  }
  return ends;
}

absl::Time Admission::NextChange(absl::Time now) const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto& [model, gate] : gates_) next = std::min(next, gate.policy.NextChange(now));
  // While somebody waits, the workers' capacity is looked at as well.
  return next == absl::InfiniteFuture() ? next : std::min(next, now + kMeasureEvery);
}

void Admission::Run() {
  absl::MutexLock lock(&mu_);
  const auto wanted = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return changed_ || stopping_; };
  while (true) {
    const absl::Time now = SteadyNow();
    mu_.AwaitWithTimeout(absl::Condition(&wanted), NextChange(now) - now);
    if (stopping_) return;
    changed_ = false;
    std::vector<End> ends = Advance();
    mu_.Unlock();
    for (End& end : ends) end.entered(end.status);
    mu_.Lock();
  }
}

}  // namespace clamor
