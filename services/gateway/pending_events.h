// Events that wait until the client has taken the one before: deltas of an answer that wait together become
// one, and the answers to one request take turns. Not thread-safe.
// Tested by tests/services/gateway/pending_events_test.cc.
#pragma once

#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "clamor/v1/generation.pb.h"

namespace clamor {

// Of one answer.
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
    delta_->mutable_text_bytes()->MergeFrom(delta.text_bytes());
    delta_->mutable_text()->append(delta.text());
    delta_->mutable_trees()->MergeFrom(delta.trees());
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

// Of all answers to one request. Each event goes to the answer that its `choice` names.
class PendingAnswers {
 public:
  explicit PendingAnswers(size_t answers) : answers_(answers) {}

  // A Started, Delta or Finished. REQUIRES: event.choice() is below the number of answers.
  template <class Event>
  void Add(Event event) {
    PendingEvents& answer = answers_[event.choice()];
    answer.Add(std::move(event));
  }

  // As PendingEvents::Pop, of the answer whose turn it is or the next after it that has one.
  template <class Response>
  bool Pop(Response* response) {
    for (size_t tried = 0; tried < answers_.size(); ++tried) {
      PendingEvents& answer = answers_[turn_];
      turn_ = (turn_ + 1) % answers_.size();
      if (answer.Pop(response)) return true;
    }
    return false;
  }

  size_t bytes() const {
    size_t sum = 0;
    for (const PendingEvents& answer : answers_) sum += answer.bytes();
    return sum;
  }
  void Clear() {
    for (PendingEvents& answer : answers_) answer.Clear();
  }

 private:
  std::vector<PendingEvents> answers_;
  size_t turn_ = 0;
};

}  // namespace clamor
