#include "services/gateway/worker_channel.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "grpcpp/create_channel.h"
#include "kernels/status_macros.h"
#include "services/gateway/health_watch.h"
#include "services/gateway/silence.h"
#include "services/gateway/tokenizer_fetch.h"
#include "services/log.h"
#include "services/rpc_error.h"

namespace clamor {
namespace {

constexpr absl::Duration kFirstRetry = absl::Milliseconds(100);
constexpr absl::Duration kLastRetry = absl::Seconds(1);
constexpr absl::Duration kPollInterval = absl::Milliseconds(250);
constexpr absl::Duration kCallTimeout = absl::Seconds(2);
constexpr double kSlowSteps = 4;  // an engine that stands still for as many of its slowest steps is stuck
constexpr double kUnknownSteps =
    10;  // and for as many times hang_after if it does not know what a step takes
constexpr CircuitBreakerOptions kBreaker = {
    .failures_to_open = 3, .min_backoff = absl::Milliseconds(500), .max_backoff = absl::Seconds(30)};
constexpr absl::Duration kTokenizerTimeout = absl::Seconds(30);

std::shared_ptr<grpc::Channel> NewChannel(const WorkerAddress& where,
                                          const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1'000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS,
                   10'000);  // a machine that vanished without a word is noticed, too
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5'000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // We ask again ourselves. gRPC's own retries can lose a call that meets a server in the moment in which it
  // closes: in 1.51 it then never ends, not even at its deadline.
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  if (!where.tls_name.empty()) arguments.SetSslTargetNameOverride(where.tls_name);
  return grpc::CreateCustomChannel(
      where.address, credentials == nullptr ? grpc::InsecureChannelCredentials() : credentials, arguments);
}

}  // namespace

const char* LossName(Loss loss) {
  switch (loss) {
    case Loss::kDied:
      return "died";
    case Loss::kHung:
      return "hung";
    case Loss::kDrained:
      return "drained";
    case Loss::kDamaged:
      return "damaged";
  }
  return "";
}

WorkerChannel::WorkerChannel(WorkerAddress where, absl::Duration hang_after,
                             const std::shared_ptr<grpc::ChannelCredentials>& credentials)
    : where_(std::move(where)),
      hang_after_(hang_after),
      channel_(NewChannel(where_, credentials)),
      stub_(v1::WorkerService::NewStub(channel_)),
      generate_(channel_),
      breaker_(kBreaker) {
  snapshot_.address = where_.address;
}

void WorkerChannel::Connect(std::function<void()> on_change) {
  on_change_ = std::move(on_change);
  contact_ = std::thread([this] { KeepContact(); });
}

WorkerChannel::~WorkerChannel() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
    if (in_call_ != nullptr) in_call_->TryCancel();
  }
  if (contact_.joinable()) contact_.join();
}

WorkerSnapshot WorkerChannel::Snapshot() const {
  absl::MutexLock lock(&mu_);
  WorkerSnapshot snapshot = snapshot_;
  snapshot.breaker_open = !breaker_.Allow(absl::Now());
  return snapshot;
}

void WorkerChannel::PrepareGenerate(grpc::ClientContext* context, GenerateReactor* reactor) {
  generate_.PrepareBidiStreamingCall(context, "/clamor.v1.WorkerService/StreamGenerate", {}, reactor);
}

void WorkerChannel::ReportLost() {
  Update([this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { lost_ = true; });
}

void WorkerChannel::ReportDraining() {
  Update([this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { snapshot_.load.set_draining(true); });
}

void WorkerChannel::ReportBegin() {
  absl::MutexLock lock(&mu_);
  breaker_.OnStart();
}

void WorkerChannel::ReportEnd(std::optional<bool> good) {
  absl::MutexLock lock(&mu_);
  if (!good) return breaker_.OnAbandoned();
  const bool was_open = breaker_.open();
  *good ? breaker_.OnSuccess() : breaker_.OnFailure(absl::Now(), Stretch());
  if (breaker_.open() == was_open) return;
  spdlog::warn("event=worker_breaker worker={} open={}", where_.address, breaker_.open());
}

double WorkerChannel::Stretch() { return std::uniform_real_distribution<double>(0.75, 1.25)(chance_); }

void WorkerChannel::SetHold(Hold hold) {
  Update([this, hold]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    hold_ = hold;
    snapshot_.cordoned = hold == Hold::kCordoned;
  });
}

void WorkerChannel::SendAway(Loss why) {
  absl::MutexLock lock(&mu_);
  if (snapshot_.state == v1::WORKER_STATE_READY) return;  // it has recovered since that was decided
  sent_away_ = why;
  for (const auto& [number, leave] : leaves_) leave(why);
}

void WorkerChannel::Hung(const char* how) {
  spdlog::warn("event=worker_hung worker={} how={}", where_.address, how);
  SendAway(Loss::kHung);
}

// Applies `change` to the guarded members and derives the state from them.
void WorkerChannel::Update(const std::function<void()>& change) {
  {
    absl::MutexLock lock(&mu_);
    change();
    const v1::WorkerState state = lost_ || stalled_ ? v1::WORKER_STATE_DOWN
                                  : snapshot_.load.draining() || hold_ != Hold::kNone
                                      ? v1::WORKER_STATE_DRAINING
                                  : serving_ ? v1::WORKER_STATE_READY
                                             : v1::WORKER_STATE_DOWN;
    if (std::exchange(snapshot_.state, state) == state) return;
    if (state == v1::WORKER_STATE_READY) sent_away_.reset();
    spdlog::info("event=worker_state worker={} state={}", where_.address, v1::WorkerState_Name(state));
  }
  on_change_();
}

void WorkerChannel::KeepContact() {
  absl::Duration wait = kFirstRetry;
  std::string last_error;
  bool was_away = true;
  while (true) {
    absl::Status status = Meet();
    if (status.ok()) {
      wait = kFirstRetry;
      last_error.clear();
      FollowUntilLost(std::exchange(was_away, false));
    } else if (std::string error(status.message()); std::exchange(last_error, error) != error) {
      spdlog::warn("event=worker_unreachable worker={} error={}", where_.address, Quoted(error));
    }
    was_away |= !status.ok();
    absl::MutexLock lock(&mu_);
    if (mu_.AwaitWithTimeout(absl::Condition(&stopping_), Stretch() * wait)) return;
    wait = std::min(wait * 2, kLastRetry);
  }
}

absl::Status WorkerChannel::Meet() {
  v1::WorkerServiceGetModelInfoResponse info;
  CLAMOR_RETURN_IF_ERROR(FromGrpc(Call(kCallTimeout, [&](grpc::ClientContext* context) {
    return stub_->GetModelInfo(context, v1::WorkerServiceGetModelInfoRequest(), &info);
  })));
  absl::StatusOr<TokenizerFiles> files;
  Call(kTokenizerTimeout, [&](grpc::ClientContext* context) {
    files = FetchTokenizer(*stub_, context);
    return grpc::Status::OK;
  });
  CLAMOR_RETURN_IF_ERROR(files.status());
  CLAMOR_ASSIGN_OR_RETURN(auto model, ServedModel::Load(info.model(), *files));
  absl::MutexLock lock(&mu_);
  snapshot_.model = std::move(model);
  return absl::OkStatus();
}

void WorkerChannel::FollowUntilLost(bool was_away) {
  Update([this, was_away]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    lost_ = serving_ = stalled_ = false;
    if (was_away) breaker_.OnSuccess();
    snapshot_.load.Clear();  // maybe of another process
  });
  {
    HealthWatch health(
        channel_, v1::WorkerService::service_full_name(),
        [this](bool serving) { Update([&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { serving_ = serving; }); },
        [this] { ReportLost(); });
    while (PollLoad().ok()) {
      auto ended = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return lost_ || stopping_; };
      absl::MutexLock lock(&mu_);
      if (mu_.AwaitWithTimeout(absl::Condition(&ended), kPollInterval)) break;
    }
  }
  ReportLost();
}

// DEADLINE_EXCEEDED if the worker has not answered, nor sent anything else, for `hang_after`.
grpc::Status WorkerChannel::AskForLoad(grpc::ClientContext* context, v1::GetLoadResponse* response) {
  const v1::GetLoadRequest request;
  grpc::Status status;
  absl::Notification answered;
  stub_->async()->GetLoad(context, &request, response, [&](grpc::Status s) {
    status = std::move(s);
    answered.Notify();
  });
  Silence silence(hang_after_);
  while (true) {
    const absl::Duration wait = silence.Look(std::chrono::steady_clock::now(), last_sign_);
    if (wait <= absl::ZeroDuration()) break;
    if (answered.WaitForNotificationWithTimeout(wait)) return status;
  }
  context->TryCancel();
  answered.WaitForNotification();
  return status.ok() ? status : grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "no answer");
}

absl::Status WorkerChannel::PollLoad() {
  v1::GetLoadResponse response;
  const grpc::Status status = Call(
      absl::InfiniteDuration(), [&](grpc::ClientContext* context) { return AskForLoad(context, &response); });
  if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
    ReportLost();
    Hung("silent");
  }
  CLAMOR_RETURN_IF_ERROR(FromGrpc(status));
  const v1::WorkerLoad& load = response.load();
  const double hang_seconds = absl::ToDoubleSeconds(hang_after_), slow_step = load.slow_step_seconds();
  const double longest =
      slow_step > 0 ? std::max(hang_seconds, kSlowSteps * slow_step) : kUnknownSteps * hang_seconds;
  const bool stalled = load.stalled_seconds() > longest;
  bool newly_stalled = false;
  Update([&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    snapshot_.load = load;
    snapshot_.streams_at_poll = snapshot_.streams;
    newly_stalled = stalled && !stalled_;
    stalled_ = stalled;
  });
  if (newly_stalled) Hung("stalled");
  return absl::OkStatus();
}

// One blocking call of the contact thread, cut short by the destructor.
grpc::Status WorkerChannel::Call(absl::Duration timeout,
                                 const std::function<grpc::Status(grpc::ClientContext*)>& call) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  {
    absl::MutexLock lock(&mu_);
    if (stopping_) context.TryCancel();
    in_call_ = &context;
  }
  grpc::Status status = call(&context);
  absl::MutexLock lock(&mu_);
  in_call_ = nullptr;
  return status;
}

WorkerLease::WorkerLease(WorkerChannel* worker) : worker_(worker) {
  absl::MutexLock lock(&worker_->mu_);
  ++worker_->snapshot_.streams;
  number_ = worker_->next_lease_++;
  model_ = worker_->snapshot_.model;
}

void WorkerLease::OnLeave(std::function<void(Loss)> leave) const {
  absl::MutexLock lock(&worker_->mu_);
  if (worker_->sent_away_) leave(*worker_->sent_away_);
  worker_->leaves_.emplace(number_, std::move(leave));
}

WorkerLease::~WorkerLease() {
  if (worker_ == nullptr) return;
  absl::MutexLock lock(&worker_->mu_);
  --worker_->snapshot_.streams;
  worker_->leaves_.erase(number_);
}

}  // namespace clamor
