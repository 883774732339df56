// Joins a client's call with a worker's: events go one way, cancellation both ways. Each class is one RPC in
// flight; it owns itself and ends with the RPC.
//
// A relay begins when its request has been prepared, which may be later than the RPC. No metadata is sent
// before the worker has started: until then the RPC can only fail, which clients may retry. Tested by
// tests/services/gateway/streaming_test.cc and failure_test.cc.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "clamor/v1/generation.pb.h"
#include "grpcpp/support/server_callback.h"
#include "services/gateway/answer_calls.h"
#include "services/gateway/padding.h"
#include "services/gateway/pending_events.h"
#include "services/gateway/request_metrics.h"
#include "services/reset_alarm.h"
#include "services/rpc_error.h"

namespace clamor {

// Stands between a generation and its listener, `next`, to which it passes events on, changed or later.
// Outlives neither.
using EventFilter = std::function<std::unique_ptr<GenerationListener>(GenerationListener* next)>;

// A checked request with the worker that will begin it.
struct PreparedGeneration {
  CallContext context;
  WorkerLease lease;
  v1::WorkerServiceStreamGenerateRequest request;
  std::string model;
  std::vector<EventFilter> filters = {};  // the one next to the client first
  uint32_t first_choice = 0;              // what the client knows the first answer as
};

// Of a request that will now begin.
inline void Record(RequestRecord& record, PreparedGeneration& generation) {
  record.Prepared(generation.model, generation.request.prompt_ids_size());
  generation.context.trace = record.place();
}

// The calls of a prepared generation, heard through its filters.
class FilteredCalls {
 public:
  FilteredCalls(PreparedGeneration generation, GenerationListener* listener)
      : filters_(Make(generation.filters, listener)),
        calls_(generation.context, std::move(generation.lease), std::move(generation.request),
               filters_.empty() ? listener : filters_.back().get()) {}

  AnswerCalls* operator->() { return &calls_; }

 private:
  static std::vector<std::unique_ptr<GenerationListener>> Make(const std::vector<EventFilter>& makers,
                                                               GenerationListener* next) {
    std::vector<std::unique_ptr<GenerationListener>> filters;
    for (const EventFilter& make : makers) {
      filters.push_back(make(next));
      next = filters.back().get();
    }
    return filters;
  }

  const std::vector<std::unique_ptr<GenerationListener>> filters_;
  AnswerCalls calls_;
};

// Adds to the number of the answer that an event is of.
template <class Response>
void ShiftChoice(Response& response, uint32_t by) {
  if (response.has_started()) {
    response.mutable_started()->set_choice(response.started().choice() + by);
  } else if (response.has_delta()) {
    response.mutable_delta()->set_choice(response.delta().choice() + by);
  } else {
    response.mutable_finished()->set_choice(response.finished().choice() + by);
  }
}

// What a client that has gone away or given up gets, if anything still reaches it.
absl::Status ClientCancelled();

// Streams to the client. One write is in flight at a time; what comes meanwhile is merged into the next. A
// client that lets more than `max_pending_bytes` pile up is cut off with SLOW_CONSUMER. Each message is
// filled up to a multiple of `pad_bytes`, if that is not 0. A status waits behind data that the client does
// not take: if it takes none of it for a while the stream is reset, and the client sees a bare CANCELLED.
template <class Response>
class StreamRelay final : public grpc::ServerWriteReactor<Response>, private GenerationListener {
 public:
  // `context` is the call's.
  StreamRelay(RequestRecord record, size_t max_pending_bytes, size_t pad_bytes,
              grpc::CallbackServerContext* context)
      : max_pending_bytes_(max_pending_bytes),
        pad_bytes_(pad_bytes),
        farewell_(context),
        record_(std::move(record)) {}

  // Once: the calls, or why there are none.
  void Begin(absl::StatusOr<PreparedGeneration> generation) {
    {
      absl::MutexLock lock(&mu_);
      if (generation.ok() && cancelled_) generation = ClientCancelled();
      if (generation.ok()) {
        Record(record_, *generation);
        model_ = std::move(generation->model);
        first_choice_ = generation->first_choice;
        deadline_ = generation->context.deadline;
        pending_ = PendingAnswers(AnswersOf(generation->request));
        GenerationListener* const listener = this;
        call_.emplace(*std::move(generation), listener);
      } else {
        ended_ = true;
        record_.End(generation.status(), "-", "-");
      }
    }
    if (!generation.ok()) return this->Finish(ToGrpc(generation.status()));
    (*call_)->Start();
  }

 private:
  void OnStarted(v1::Started started) override {
    started.set_model(model_);
    absl::MutexLock lock(&mu_);
    if (started.choice() == 0) record_.Admitted();
    pending_.Add(std::move(started));
    WriteNext();
  }

  void OnDelta(v1::Delta delta) override {
    absl::MutexLock lock(&mu_);
    record_.Tokens(delta.choice(), delta.token_ids_size());
    pending_.Add(std::move(delta));
    WriteNext();
    if (pending_.bytes() > max_pending_bytes_) {
      (*call_)->Cancel(
          Refusal("SLOW_CONSUMER", absl::StrCat("the client let over ", max_pending_bytes_, " bytes wait")));
    }
  }

  void OnFinished(v1::Finished finished) override {
    absl::MutexLock lock(&mu_);
    pending_.Add(std::move(finished));
    WriteNext();
  }

  void OnEnded(const absl::Status& status) override {
    {
      absl::MutexLock lock(&mu_);
      ended_ = true;
      status_ = status;
      if (absl::IsCancelled(status)) pending_.Clear();  // nobody waits for it
      record_.End(status_, (*call_)->request().request_id(), (*call_)->request().tenant());
      const absl::Time soon = absl::Now() + kFarewell;
      farewell_.Set(status.ok() ? std::max(deadline_, soon) : soon);
      if (writing_ || WriteNext()) return;
    }
    this->Finish(ToGrpc(status));
  }

  void OnWriteDone(bool ok) override {
    grpc::Status status;
    {
      absl::MutexLock lock(&mu_);
      writing_ = false;
      if (!ok) {
        pending_.Clear();
        if (!ended_) (*call_)->Cancel(ClientCancelled());
      }
      if (WriteNext() || !ended_) return;
      status = ToGrpc(status_);
    }
    this->Finish(std::move(status));
  }

  void OnCancel() override {
    absl::MutexLock lock(&mu_);
    cancelled_ = true;
    if (call_ && !ended_) (*call_)->Cancel(ClientCancelled());
  }

  void OnDone() override { delete this; }

  // Starts the next write unless one is under way. True if it did.
  bool WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (writing_) return false;
    response_.Clear();
    if (!pending_.Pop(&response_)) return false;
    if (first_choice_ > 0) ShiftChoice(response_, first_choice_);
    Pad(pad_bytes_, &response_);
    writing_ = true;
    this->StartWrite(&response_);
    return true;
  }

  static constexpr absl::Duration kFarewell = absl::Seconds(2);

  const size_t max_pending_bytes_, pad_bytes_;
  std::string model_;  // constant since Begin
  uint32_t first_choice_ = 0;
  absl::Time deadline_ = absl::InfiniteFuture();
  ResetAlarm
      farewell_;  // of a call that is over but for what the client has yet to take, its status included

  absl::Mutex mu_;
  RequestRecord record_ ABSL_GUARDED_BY(mu_);
  PendingAnswers pending_ ABSL_GUARDED_BY(mu_){0};
  Response response_ ABSL_GUARDED_BY(mu_);  // gRPC's while writing_
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;  // OnEnded was called; Finish follows the last write
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mu_);

  std::optional<FilteredCalls> call_;  // since Begin
};

// Gathers the whole answers into `response` (GenerateResponse or ChatResponse), which gRPC keeps until
// Finish.
template <class Response>
class UnaryRelay final : public grpc::ServerUnaryReactor, private GenerationListener {
 public:
  UnaryRelay(RequestRecord record, Response* response) : response_(response), record_(std::move(record)) {}

  // As StreamRelay::Begin.
  void Begin(absl::StatusOr<PreparedGeneration> generation) {
    {
      absl::MutexLock lock(&mu_);
      if (generation.ok() && cancelled_) generation = ClientCancelled();
      if (generation.ok()) {
        Record(record_, *generation);
        model_ = std::move(generation->model);
        for (uint32_t i = 0; i < AnswersOf(generation->request); ++i) response_->add_answers();
        GenerationListener* const listener = this;
        call_.emplace(*std::move(generation), listener);
      } else {
        ended_ = true;
      }
    }
    if (generation.ok()) return (*call_)->Start();
    record_.End(generation.status(), "-", "-");
    this->Finish(ToGrpc(generation.status()));
  }

 private:
  void OnStarted(v1::Started started) override {
    started.set_model(model_);
    if (started.choice() == 0) record_.Admitted();
    *response_->mutable_answers(static_cast<int>(started.choice()))->mutable_started() = std::move(started);
  }

  void OnDelta(v1::Delta delta) override {
    record_.Tokens(delta.choice(), delta.token_ids_size());
    v1::Answer& answer = *response_->mutable_answers(static_cast<int>(delta.choice()));
    answer.mutable_token_ids()->MergeFrom(delta.token_ids());
    answer.mutable_sources()->MergeFrom(delta.sources());
    answer.mutable_logprobs()->MergeFrom(delta.logprobs());
    answer.mutable_text()->append(delta.text());
  }

  void OnFinished(v1::Finished finished) override {
    *response_->mutable_answers(static_cast<int>(finished.choice()))->mutable_finished() =
        std::move(finished);
  }

  void OnEnded(const absl::Status& status) override {
    {
      absl::MutexLock lock(&mu_);
      ended_ = true;
    }
    record_.End(status, (*call_)->request().request_id(), (*call_)->request().tenant());
    this->Finish(ToGrpc(status));
  }

  void OnCancel() override {
    absl::MutexLock lock(&mu_);
    cancelled_ = true;
    if (call_ && !ended_) (*call_)->Cancel(ClientCancelled());
  }

  void OnDone() override { delete this; }

  Response* const response_;  // the listener's calls come one at a time: no lock
  RequestRecord record_;
  std::string model_;  // constant since Begin

  absl::Mutex mu_;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;

  std::optional<FilteredCalls> call_;  // since Begin
};

}  // namespace clamor
