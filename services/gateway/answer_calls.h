// All answers of one request: an AnswerCall for each, heard as one generation whose events say which answer
// they belong to.
//
// The request first passes the gate (admission.h); where it must wait there, a worker is chosen when its turn
// comes. The first call goes alone until its prompt has been read: the others then find it in the worker's
// cache. What ends one with an error ends all.
// Tested by tests/services/gateway/answers_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "services/gateway/answer_call.h"

namespace clamor {

// How many answers a request asks for.
inline uint32_t AnswersOf(const v1::WorkerServiceStreamGenerateRequest& request) {
  return request.options().has_n() ? request.options().n() : 1;
}

class AnswerCalls {
 public:
  // AnswersOf(request) of them, with the seeds seed, seed + 1, ... `lease` is of any worker of the model;
  // which one begins is decided in Start. `listener` must outlive this; it hears one event at a time.
  AnswerCalls(const CallContext& context, WorkerLease lease, v1::WorkerServiceStreamGenerateRequest request,
              GenerationListener* listener);
  // REQUIRES: never started, or OnEnded was called.
  ~AnswerCalls();

  void Start();  // once
  // As WorkerCall::Cancel.
  void Cancel(const absl::Status& why);

  const v1::WorkerServiceStreamGenerateRequest& request() const { return request_; }

 private:
  class Answer;

  void Begin();
  void EndUnbegun(const absl::Status& status);
  void Leave();
  void StartRest();
  void End(const absl::Status& status);
  void Stop(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const CallContext context_;
  const v1::WorkerServiceStreamGenerateRequest request_;
  GenerationListener* const listener_;
  Span admission_;         // while it waits at the gate
  absl::Mutex listening_;  // held while the listener hears an event; never taken with mu_ held
  const std::shared_ptr<const ServedModel> model_;
  const uint64_t ticket_;  // of the gate

  absl::Mutex mu_;
  std::unique_ptr<Answer> first_;                                   // null until it begins; then constant
  std::vector<std::unique_ptr<Answer>> rest_ ABSL_GUARDED_BY(mu_);  // none until they start
  size_t ended_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t tokens_ ABSL_GUARDED_BY(mu_) = 0;   // of all answers
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;  // nothing starts any more
  absl::Status status_ ABSL_GUARDED_BY(mu_);   // the first error
};

}  // namespace clamor
