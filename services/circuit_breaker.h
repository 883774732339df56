// Stops calls to a service that fails, and finds out by single calls when it is back.
//
// Pure: time is passed in. Threads: one at a time; the owner locks.
// Tested by tests/services/worker/retrieval_drafter_test.cc.
#pragma once

#include <algorithm>

#include "absl/time/time.h"

namespace clamor {

struct CircuitBreakerOptions {
  int failures_to_open = 3;  // in a row
  absl::Duration min_backoff = absl::Milliseconds(250);
  absl::Duration max_backoff = absl::Seconds(4);
};

class CircuitBreaker {
 public:
  explicit CircuitBreaker(const CircuitBreakerOptions& options)
      : options_(options), backoff_(options.min_backoff) {}

  // Whether a call may start. While open: no, except for one probe after each backoff, whose outcome decides.
  bool Allow(absl::Time now) const { return !open() || (!probing_ && now >= retry_at_); }

  void OnStart() { probing_ = open(); }

  void OnSuccess() {
    failures_ = 0;
    probing_ = false;
    backoff_ = options_.min_backoff;
  }

  // A call ended without telling anything: if it was the probe, there may be another.
  void OnAbandoned() { probing_ = false; }

  // `stretch` of the backoff makes those who met the same failure come back at different times.
  void OnFailure(absl::Time now, double stretch = 1) {
    failures_ = std::min(failures_ + 1, options_.failures_to_open);
    if (!open()) return;
    if (probing_) backoff_ = std::min(2 * backoff_, options_.max_backoff);
    probing_ = false;
    retry_at_ = now + stretch * backoff_;
  }

  bool open() const { return failures_ >= options_.failures_to_open; }

 private:
  const CircuitBreakerOptions options_;
  int failures_ = 0;      // in a row
  bool probing_ = false;  // the probe is on its way
  absl::Duration backoff_;
  absl::Time retry_at_ = absl::InfinitePast();
};

}  // namespace clamor
