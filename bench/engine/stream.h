// One answer under way in a benchmark, with the time of each of its tokens.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "services/worker/engine.h"

namespace clamor {

class Stream final : public TokenSink {
 public:
  void OnDelta(const Delta& delta) override {
    const absl::Time now = absl::Now();
    if (tokens_ > 0) gaps_.push_back(absl::ToDoubleSeconds(now - last_));
    last_ = now;
    tokens_ += static_cast<int64_t>(delta.token_ids.size());
  }
  void OnFinished(const Finished& finished) override {
    finished_ = true;
    reason_ = finished.reason;
  }

  bool finished() const { return finished_; }
  FinishReason reason() const { return reason_; }
  int64_t tokens() const { return tokens_; }
  // Seconds between deliveries, which a step may fill with several tokens.
  const std::vector<double>& gaps() const { return gaps_; }

 private:
  bool finished_ = false;
  FinishReason reason_ = FinishReason::kStop;
  int64_t tokens_ = 0;
  absl::Time last_;
  std::vector<double> gaps_;
};

}  // namespace clamor
