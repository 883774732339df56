#include "services/gateway/answer_call.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/log.h"
#include "services/rpc_error.h"

namespace clamor {
namespace {

constexpr int kMostLosses = 32;  // whatever happens to the fleet, no answer wanders for ever

}  // namespace

AnswerCall::AnswerCall(const CallContext& context, WorkerLease lease,
                       v1::WorkerServiceStreamGenerateRequest request, GenerationListener* listener)
    : context_(context),
      model_(lease.model()->info()),
      request_id_(request.request_id()),
      listener_(listener),
      journal_(std::move(request), context.revision),
      call_(NewCall(std::move(lease))) {}

// For what the journal says is missing.
std::unique_ptr<WorkerCall> AnswerCall::NewCall(WorkerLease lease) {
  GenerationListener* const listener = this;
  return std::make_unique<WorkerCall>(
      std::move(lease), journal_.request(), journal_.start(),
      WorkerCallOptions{.deadline = context_.deadline, .trace = context_.trace}, listener);
}

void AnswerCall::Start() { call_->Start(); }

void AnswerCall::Cancel(absl::Status why) {
  absl::MutexLock lock(&mu_);
  if (!cancelled_.ok()) return;
  cancelled_ = why;
  if (search_) {
    context_.fleet->successors().GiveUp(*search_);
  } else {
    call_->Cancel(std::move(why));
  }
}

void AnswerCall::OnStarted(v1::Started started) {
  const bool again = journal_.begun();
  journal_.Add(started);
  if (!again) listener_->OnStarted(std::move(started));
}

void AnswerCall::OnDelta(v1::Delta delta) {
  const absl::Time now = absl::Now();
  if (lost_) {
    if (last_tokens_ <= now)
      context_.metrics->failover_pause.Observe(absl::ToDoubleSeconds(now - last_tokens_));
    lost_.reset();
  }
  last_tokens_ = now;
  journal_.Add(delta);
  listener_->OnDelta(std::move(delta));
}

void AnswerCall::OnFinished(v1::Finished finished) {
  journal_.Complete(&finished);
  listener_->OnFinished(std::move(finished));
}

void AnswerCall::OnEnded(const absl::Status& status) {
  if (call_->loss()) return Replace(*call_->loss());
  // Of two equal workers one may have less memory: it cannot take over, but another may.
  if (lost_ && !call_->started() && ReasonOf(status) == "CONTEXT_TOO_LONG") {
    excluded_.push_back(call_->worker().address());
    return Search();
  }
  listener_->OnEnded(status);
}

void AnswerCall::Replace(Loss loss) {
  lost_ = Lost{.worker = call_->worker().address(), .loss = loss};
  excluded_.clear();
  if (loss == Loss::kDamaged) excluded_.push_back(lost_->worker);  // it is still there
  search_deadline_ = std::min(context_.deadline, absl::Now() + context_.fleet->options().failover_wait);
  spdlog::warn("event=worker_lost id={} worker={} reason={} started={} tokens={} trace={}", request_id_,
               lost_->worker, LossName(loss), call_->started(), journal_.tokens(),
               context_.trace.context.TraceIdText());
  if (loss != Loss::kDrained && suspicion_.Lost(call_->started(), journal_.tokens())) {
    Count("poison_request");
    return listener_->OnEnded(Refusal(
        "POISON_REQUEST", absl::StrCat("worker ", lost_->worker, " ", LossName(loss), " after ",
                                       journal_.tokens(), " tokens of this request, as one before it had")));
  }
  if (++losses_ > kMostLosses) {
    Count("given_up");
    return listener_->OnEnded(
        Refusal("NO_COMPATIBLE_WORKER", absl::StrCat("the answer has lost ", losses_, " workers")));
  }
  failover_ = context_.trace.Start("failover");
  failover_.Set("clamor.loss", LossName(loss));
  Search();
}

void AnswerCall::Search() {
  absl::MutexLock lock(&mu_);  // OnFound waits until the ticket is known
  search_ = context_.fleet->successors().Begin(
      {.like = model_, .excluded = excluded_}, search_deadline_,
      [this](std::optional<WorkerLease> lease) { OnFound(std::move(lease)); });
  if (!cancelled_.ok()) context_.fleet->successors().GiveUp(*search_);
}

void AnswerCall::OnFound(std::optional<WorkerLease> lease) {
  absl::Status end;
  {
    absl::MutexLock lock(&mu_);
    search_.reset();
    if (!cancelled_.ok()) {
      end = cancelled_;
    } else if (!lease) {
      end = NobodyGoesOn();
    } else {
      spdlog::info("event=failover id={} from={} to={} reason={} tokens={} trace={}", request_id_,
                   lost_->worker, lease->worker().address(), LossName(lost_->loss), journal_.tokens(),
                   context_.trace.context.TraceIdText());
      journal_.GoOn();
      call_ = NewCall(*std::move(lease));
    }
  }
  if (!end.ok()) failover_.Fail(end);
  failover_.End();
  if (end.ok()) {
    Count("moved");
    return call_->Start();
  }
  Count(absl::IsUnavailable(end) ? "no_worker" : "given_up");
  listener_->OnEnded(end);
}

absl::Status AnswerCall::NobodyGoesOn() const {
  if (absl::Now() >= context_.deadline)
    return Refusal("DEADLINE", "the deadline passed before another worker could go on");
  return Refusal(
      journal_.begun() ? "NO_COMPATIBLE_WORKER" : "NO_WORKER",
      absl::StrCat("worker ", lost_->worker, " ", LossName(lost_->loss), " after ", journal_.tokens(),
                   " tokens, and no other of model \"", model_.name(), "\", revision ", model_.revision(),
                   ", was ready within ", absl::FormatDuration(context_.fleet->options().failover_wait)));
}

void AnswerCall::Count(const char* outcome) const {
  context_.metrics->failovers.Add({{"reason", LossName(lost_->loss)}, {"outcome", outcome}}).Increment();
}

}  // namespace clamor
