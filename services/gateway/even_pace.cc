#include "services/gateway/even_pace.h"

#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "grpcpp/alarm.h"
#include "services/gateway/padding.h"

namespace clamor {

absl::Status CheckEvenness(const Evenness& evenness, size_t max_pending_bytes) {
  // A beat has up to two messages of each of sixteen answers, and is no sign of a slow client.
  constexpr size_t kBeats = 2, kMessages = 32;
  if (evenness.pad_bytes > kMaxPadBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("--pad-chunks is ", evenness.pad_bytes, ", must be at most ", kMaxPadBytes));
  }
  if (evenness.pad_bytes > max_pending_bytes / (kBeats * kMessages)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--pad-chunks is ", evenness.pad_bytes, ", must be at most ",
        max_pending_bytes / (kBeats * kMessages), ", a ", kBeats * kMessages, "th of --max-pending-bytes"));
  }
  if (evenness.cadence > absl::ZeroDuration() && evenness.pad_bytes == 0) {
    return absl::InvalidArgumentError(
        "--cadence needs --pad-chunks: at an even pace sizes tell alone how many tokens came");
  }
  return absl::OkStatus();
}

GatheredAnswers::GatheredAnswers(size_t answers, const AnswerPlace& begin)
    : progress_(answers, {.place = begin}), pending_(answers) {}

void GatheredAnswers::Begin(uint32_t choice) {
  progress_[choice].running = true;
  AddNothing(choice);
}

void GatheredAnswers::Add(v1::Delta delta) {
  AnswerPlace& place = progress_[delta.choice()].place;
  place.tokens += static_cast<uint64_t>(delta.token_ids_size());
  place.text_bytes += delta.text().size();
  pending_.Add(std::move(delta));
}

void GatheredAnswers::Add(v1::Finished finished) {
  progress_[finished.choice()].running = false;
  pending_.Add(std::move(finished));
}

void GatheredAnswers::PassOn(GenerationListener* next) {
  for (v1::StreamGenerateResponse event; pending_.Pop(&event); event.Clear()) {
    event.has_delta() ? next->OnDelta(std::move(*event.mutable_delta()))
                      : next->OnFinished(std::move(*event.mutable_finished()));
  }
  for (uint32_t i = 0; i < progress_.size(); ++i) {
    if (progress_[i].running) AddNothing(i);
  }
}

void GatheredAnswers::AddNothing(uint32_t choice) {
  v1::Delta nothing;
  nothing.set_choice(choice);
  nothing.set_first_token_index(progress_[choice].place.tokens);
  nothing.set_first_text_byte(progress_[choice].place.text_bytes);
  pending_.Add(std::move(nothing));
}

absl::Time NextBeat(absl::Time last, absl::Duration cadence, absl::Time now) {
  absl::Duration since;
  absl::IDivDuration(now - last, cadence, &since);  // less than a cadence; below 0 if clocks were set back
  return now - since + cadence;
}

class EvenPace::Rhythm final : public std::enable_shared_from_this<Rhythm> {
 public:
  Rhythm(const Options& options, GenerationListener* next)
      : options_(options), next_(next), gathered_(options.answers, options.begin) {}

  void OnStarted(v1::Started started) {
    absl::MutexLock lock(&mu_);
    const uint32_t choice = started.choice();
    next_->OnStarted(std::move(started));
    gathered_.Begin(choice);
    if (std::exchange(beats_, true)) return;
    last_ = absl::Now();
    SetAlarm();
  }

  void OnDelta(v1::Delta delta) {
    absl::MutexLock lock(&mu_);
    gathered_.Add(std::move(delta));
    if (gathered_.bytes() > options_.most_bytes) gathered_.PassOn(next_);
  }

  void OnFinished(v1::Finished finished) {
    absl::MutexLock lock(&mu_);
    gathered_.Add(std::move(finished));
  }

  void OnEnded(const absl::Status& status) {
    std::unique_ptr<grpc::Alarm> alarm;
    {
      absl::MutexLock lock(&mu_);
      if (status.ok() && beats_) {
        ended_ = true;
        return;  // the next beat tells
      }
      if (beats_) gathered_.PassOn(next_);
      over_ = true;
      alarm = std::move(alarm_);
    }
    alarm.reset();           // which puts it off
    next_->OnEnded(status);  // which may end the pace
  }

 private:
  void SetAlarm() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    last_ = NextBeat(last_, options_.cadence, absl::Now());
    alarm_->Set(absl::ToChronoTime(last_), [self = shared_from_this()](bool) { self->Beat(); });
  }

  void Beat() {
    std::unique_ptr<grpc::Alarm> rung;
    bool ends = false;
    {
      absl::MutexLock lock(&mu_);
      if (over_) return;
      gathered_.PassOn(next_);
      rung = std::move(alarm_);
      ends = over_ = ended_;
    }
    if (ends) return next_->OnEnded(absl::OkStatus());  // which may end the pace
    auto alarm = std::make_unique<grpc::Alarm>();
    absl::MutexLock lock(&mu_);
    if (over_) return;
    alarm_ = std::move(alarm);
    SetAlarm();
  }

  const Options options_;
  GenerationListener* const next_;

  absl::Mutex mu_;  // held while `next_` hears an event, so that it hears one at a time
  GatheredAnswers gathered_ ABSL_GUARDED_BY(mu_);
  bool beats_ ABSL_GUARDED_BY(mu_) = false;  // an alarm has been set
  bool ended_ ABSL_GUARDED_BY(mu_) = false;  // well
  bool over_ ABSL_GUARDED_BY(mu_) = false;   // `next_` hears no more
  absl::Time last_ ABSL_GUARDED_BY(mu_);     // the beat that alarm_ is set to
  // The next, which holds this once it is set. One for each beat: in its own call it cannot be set again.
  // The first alarm that there is starts gRPC and the last one stops it, which waits for calls under way and
  // calls what is left: so alarms are made and given up without mu_, and made while another is there.
  std::unique_ptr<grpc::Alarm> alarm_ ABSL_GUARDED_BY(mu_) = std::make_unique<grpc::Alarm>();
};

EvenPace::EvenPace(const Options& options, GenerationListener* next)
    : rhythm_(std::make_shared<Rhythm>(options, next)) {}

EvenPace::~EvenPace() = default;

void EvenPace::OnStarted(v1::Started started) { rhythm_->OnStarted(std::move(started)); }
void EvenPace::OnDelta(v1::Delta delta) { rhythm_->OnDelta(std::move(delta)); }
void EvenPace::OnFinished(v1::Finished finished) { rhythm_->OnFinished(std::move(finished)); }
void EvenPace::OnEnded(const absl::Status& status) {
  // The end may come to `next` on the alarm's thread, and take this away meanwhile.
  const std::shared_ptr<Rhythm> rhythm = rhythm_;
  rhythm->OnEnded(status);
}

}  // namespace clamor
