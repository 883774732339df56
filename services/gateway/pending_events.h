// Events of one generation that wait until the client has taken the one before: deltas that wait together
// become one. Not thread-safe.
// Tested by tests/services/gateway/pending_events_test.cc.
#pragma once

#include <cstddef>
#include <optional>
#include <utility>

#include "clamor/v1/generation.pb.h"

namespace clamor {

class PendingEvents {
 public:
  void Add(v1::Started started) { started_ = std::move(started); }
  // REQUIRES: goes on where the delta before ended.
  void Add(v1::Delta delta) {
    if (!delta_) {
      delta_ = std::move(delta);
      return;
    }
    delta_->mutable_token_ids()->MergeFrom(delta.token_ids());
    delta_->mutable_sources()->MergeFrom(delta.sources());
    delta_->mutable_logprobs()->MergeFrom(delta.logprobs());
    delta_->mutable_text()->append(delta.text());
  }
  void Add(v1::Finished finished) { finished_ = std::move(finished); }

  // Moves the oldest event into `response`, a message with the oneof of StreamGenerateResponse. False if none
  // waits.
  template <class Response>
  bool Pop(Response* response) {
    if (started_) {
      *response->mutable_started() = *std::exchange(started_, std::nullopt);
    } else if (delta_) {
      *response->mutable_delta() = *std::exchange(delta_, std::nullopt);
    } else if (finished_) {
      *response->mutable_finished() = *std::exchange(finished_, std::nullopt);
    } else {
      return false;
    }
    return true;
  }

  // Of what may grow without end.
  size_t bytes() const { return delta_ ? delta_->ByteSizeLong() : 0; }
  void Clear() { *this = {}; }

 private:
  std::optional<v1::Started> started_;
  std::optional<v1::Delta> delta_;
  std::optional<v1::Finished> finished_;
};

}  // namespace clamor
