// How long nothing has been heard of a worker by a gateway that was there to hear it.
// Tested by tests/services/gateway/silence_test.cc.
#pragma once

#include <algorithm>
#include <chrono>

#include "absl/time/time.h"

namespace clamor {

// While the gateway itself stands still (its machine was suspended, or is overloaded) nobody can reach it,
// and what came meanwhile is heard only afterwards. So whoever waits looks at the clock now and then: what a
// look comes too late by is no silence of the worker's. Not thread-safe.
class Silence {
 public:
  using Time = std::chrono::steady_clock::time_point;
  static constexpr absl::Duration kBetweenLooks = absl::Milliseconds(50);

  explicit Silence(absl::Duration longest) : longest_(longest) {}

  // The worker was last heard at `sign`. When to look next: zero if it has been silent for `longest`.
  absl::Duration Look(Time now, Time sign) {
    const absl::Duration passed = std::min(absl::FromChrono(now - looked_), wait_);
    silent_ = sign > looked_ ? std::clamp(absl::FromChrono(now - sign), absl::ZeroDuration(), passed)
                             : silent_ + passed;
    looked_ = now;
    wait_ = std::clamp(longest_ - silent_, absl::ZeroDuration(), kBetweenLooks);
    return wait_;
  }

 private:
  const absl::Duration longest_;
  Time looked_{};
  absl::Duration wait_, silent_;  // zero at first: silence begins with the first look
};

}  // namespace clamor
