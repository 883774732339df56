#include "services/worker/hedged_lookup.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "absl/time/clock.h"
#include "grpcpp/alarm.h"
#include "grpcpp/grpcpp.h"

namespace clamor {
namespace {

constexpr double kShare = 0.05;  // of lookups that are asked twice for being slow, and of those that are slow
constexpr double kMostAllowance = 10;  // hedges at once, after a quiet time
constexpr double kStep = 0.1;          // by which the usual time follows what is seen
constexpr absl::Duration kLeastDelay = absl::Microseconds(200);

}  // namespace

std::string_view HedgeName(Hedge hedge) {
  constexpr std::string_view kNames[kHedges] = {"slow_won", "slow_lost", "failed_won", "failed_lost"};
  return kNames[static_cast<size_t>(hedge)];
}

// One lookup. Each of its calls, and its alarm, holds it until it has ended; the last one out ends it.
class HedgedLookup::Flight : public std::enable_shared_from_this<Flight> {
 public:
  Flight(HedgedLookup* owner, v1::LookupRequest request, Done done)
      : owner_(*owner), request_(std::move(request)), done_(std::move(done)), started_(absl::Now()) {}

  void Start() {
    Ask(0);
    const absl::Duration delay = owner_.Delay();
    if (delay >= owner_.timeout_) return;
    absl::MutexLock lock(&mu_);
    if (answered_ || asked_second_) return;
    alarm_.emplace();
    // The alarm keeps this function until it goes itself, which it does with the flight: so let go of that.
    alarm_->Set(absl::ToChronoTime(started_ + delay), [self = shared_from_this()](bool rang) mutable {
      const std::shared_ptr<Flight> flight = std::move(self);
      if (rang) flight->OnSlow();
    });
  }

  void Cancel() {
    for (grpc::ClientContext& context : contexts_) context.TryCancel();
  }

 private:
  void Ask(int which) {
    contexts_[which].set_deadline(absl::ToChronoTime(started_ + owner_.timeout_));
    v1::RetrievalService::Stub& stub = which == 0 ? *owner_.first_ : *owner_.second_;
    stub.async()->Lookup(
        &contexts_[which], &request_, &responses_[which],
        [self = shared_from_this(), which](const grpc::Status& status) { self->OnAnswer(which, status); });
  }

  void OnSlow() {
    {
      absl::MutexLock lock(&mu_);
      if (answered_ || asked_second_ || !owner_.MayHedge()) return;
      asked_second_ = true;
    }
    Ask(1);
  }

  void OnAnswer(int which, const grpc::Status& status) {
    bool deliver = false, ask_second = false;
    std::optional<Hedge> hedge;
    {
      absl::MutexLock lock(&mu_);
      if (which == 0 && !cancelled_first_) owner_.OnFirst(absl::Now() - started_);
      ended_[which] = true;
      if (answered_) return;
      if (which == 0 && !status.ok() && owner_.second_ != nullptr && !asked_second_ &&
          status.error_code() != grpc::StatusCode::CANCELLED &&
          status.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED) {
        asked_second_ = ask_second = failed_ = true;
      } else if (status.ok() || (ended_[0] && (ended_[1] || !asked_second_))) {
        deliver = answered_ = true;
        cancelled_first_ = which == 1;
        if (asked_second_ && which == 1 && status.ok())
          hedge = failed_ ? Hedge::kFailedWon : Hedge::kSlowWon;
        else if (asked_second_)
          hedge = failed_ ? Hedge::kFailedLost : Hedge::kSlowLost;
        if (alarm_.has_value()) alarm_->Cancel();
      }
    }
    if (ask_second) return Ask(1);
    if (!deliver) return;
    if (asked_second_) contexts_[1 - which].TryCancel();
    if (hedge.has_value() && owner_.observer_) owner_.observer_(*hedge);
    done_(status, responses_[which]);
  }

  HedgedLookup& owner_;
  const v1::LookupRequest request_;
  const Done done_;
  const absl::Time started_;
  std::array<grpc::ClientContext, 2> contexts_;
  std::array<v1::LookupResponse, 2> responses_;

  absl::Mutex mu_;  // guards what follows
  std::optional<grpc::Alarm> alarm_;
  std::array<bool, 2> ended_{};
  bool asked_second_ = false, failed_ = false, answered_ = false, cancelled_first_ = false;
};

HedgedLookup::HedgedLookup(const std::shared_ptr<grpc::ChannelInterface>& first,
                           const std::shared_ptr<grpc::ChannelInterface>& second, absl::Duration timeout,
                           Observer observer)
    : first_(v1::RetrievalService::NewStub(first)),
      second_(second == nullptr ? nullptr : v1::RetrievalService::NewStub(second)),
      timeout_(timeout),
      observer_(std::move(observer)),
      usual_(timeout / 4) {}

HedgedLookup::~HedgedLookup() {
  Cancel();
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(this, &HedgedLookup::Quiet));
}

void HedgedLookup::Cancel() {
  absl::MutexLock lock(&mu_);
  for (Flight* flight : flights_) flight->Cancel();
}

void HedgedLookup::Start(v1::LookupRequest request, Done done) {
  const std::shared_ptr<Flight> flight(new Flight(this, std::move(request), std::move(done)),
                                       [this](Flight* ended) {
                                         {
                                           absl::MutexLock lock(&mu_);
                                           flights_.erase(ended);
                                           ++ending_;
                                         }
                                         delete ended;
                                         absl::MutexLock lock(&mu_);
                                         --ending_;
                                       });
  {
    absl::MutexLock lock(&mu_);
    flights_.insert(flight.get());
    allowance_ = std::min(allowance_ + kShare, kMostAllowance);
  }
  flight->Start();
}

absl::Duration HedgedLookup::Delay() {
  if (second_ == nullptr) return absl::InfiniteDuration();
  absl::MutexLock lock(&mu_);
  return usual_;
}

bool HedgedLookup::MayHedge() {
  absl::MutexLock lock(&mu_);
  if (allowance_ < 1) return false;
  allowance_ -= 1;
  return true;
}

void HedgedLookup::OnFirst(absl::Duration took) {
  absl::MutexLock lock(&mu_);
  // Up by 19 parts where one in twenty is slower, down by one where the others are not: they cancel out at
  // the time that 19 of 20 keep.
  usual_ *= took > usual_ ? 1 + kStep * (1 - kShare) : 1 - kStep * kShare;
  usual_ = std::clamp(usual_, kLeastDelay, timeout_);
}

}  // namespace clamor
