// Streams that do not tell by their rhythm how many tokens each step of the model brought: what comes is
// gathered, and goes on at a constant interval, once for each answer, even if there is nothing.
//
//   worker   Started . . T . TTT . . . T F
//   client   Started . . . D . . . D . . . D F        one D every `cadence`
//
// How large each message is tells as much: padding.h. Tested by tests/services/gateway/even_pace_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "clamor/v1/generation.pb.h"
#include "services/gateway/pending_events.h"
#include "services/generation_listener.h"

namespace clamor {

struct Evenness {
  absl::Duration cadence = absl::ZeroDuration();  // 0: everything goes on as it comes
  size_t pad_bytes = 0;                           // messages are multiples of it; 0: as long as they are
};

// Whether these go together and leave room in what may wait for a client, `max_pending_bytes`.
absl::Status CheckEvenness(const Evenness& evenness, size_t max_pending_bytes);

// How much there is of an answer.
struct AnswerPlace {
  uint64_t tokens = 0, text_bytes = 0;
};

// What waits for the next beat, of all answers to one request. Not thread-safe.
class GatheredAnswers {
 public:
  // The first Delta of each answer begins at `begin`.
  GatheredAnswers(size_t answers, const AnswerPlace& begin);

  void Begin(uint32_t choice);  // before its first Delta
  void Add(v1::Delta delta);
  void Add(v1::Finished finished);  // its last

  // Gives `next` one Delta of each answer that has begun, empty if nothing came, and right after it the
  // Finished that came: then it is over.
  void PassOn(GenerationListener* next);

  // Of what waits.
  size_t bytes() const { return pending_.bytes(); }

 private:
  struct Progress {
    bool running = false;
    AnswerPlace place;
  };
  void AddNothing(uint32_t choice);

  std::vector<Progress> progress_;
  PendingAnswers pending_;  // of answers that run always a Delta, to which others are added
};

// When to beat after `now`: of last, last + cadence, last + 2 cadence, ... the next. Beats that were missed
// are left out, and no wait is longer than two cadences, however clocks are set.
absl::Time NextBeat(absl::Time last, absl::Duration cadence, absl::Time now);

class EvenPace final : public GenerationListener {
 public:
  struct Options {
    absl::Duration cadence;
    size_t answers;
    size_t most_bytes;  // if more waits it goes on before its time
    AnswerPlace begin = {};
  };
  // `next` must outlive the events. An answer that ends well ends at the next beat; an error, or a client
  // that has gone, ends it at once, after what waits. May be destroyed as soon as `next` hears OnEnded:
  // alarms that ring later find nothing to do.
  EvenPace(const Options& options, GenerationListener* next);
  ~EvenPace() override;

  void OnStarted(v1::Started started) override;
  void OnDelta(v1::Delta delta) override;
  void OnFinished(v1::Finished finished) override;
  void OnEnded(const absl::Status& status) override;

 private:
  class Rhythm;
  const std::shared_ptr<Rhythm> rhythm_;  // shared with the alarm, which may ring later than we go
};

}  // namespace clamor
