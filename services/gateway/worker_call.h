// One generation on one worker, as callbacks.
//
// Checks what a worker must keep to (Started, Deltas without gaps, Finished) and turns every way to end into
// one status:
//   the worker's own        passed on with its reason
//   the worker went away    UNAVAILABLE "[NO_WORKER]", and the worker is reported lost
//   Cancel(why)             `why`
//   nonsense                INTERNAL
// Tested by tests/services/gateway/streaming_test.cc and failure_test.cc.
#pragma once

#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "clamor/v1/worker.grpc.pb.h"
#include "grpcpp/client_context.h"
#include "services/gateway/worker_channel.h"

namespace clamor {

// Hears of a generation, one call at a time, on gRPC's threads.
class GenerationListener {
 public:
  virtual ~GenerationListener() = default;
  virtual void OnStarted(v1::Started started) = 0;
  virtual void OnDelta(v1::Delta delta) = 0;
  virtual void OnFinished(v1::Finished finished) = 0;
  // Exactly once and last; the call may be destroyed from here on. OK only after OnFinished.
  virtual void OnEnded(const absl::Status& status) = 0;
};

class WorkerCall final : private grpc::ClientReadReactor<v1::WorkerServiceStreamGenerateResponse> {
 public:
  // `listener` must outlive the call.
  WorkerCall(WorkerLease lease, v1::WorkerServiceStreamGenerateRequest request, absl::Time deadline,
             GenerationListener* listener);
  // REQUIRES: never started, or OnEnded was called.
  ~WorkerCall() override = default;

  void Start();  // once
  // Ends the call with `why`; the first one counts. Any thread; nothing happens if it has
  // ended.
  void Cancel(absl::Status why);

  const v1::WorkerServiceStreamGenerateRequest& request() const { return request_; }
  WorkerChannel& worker() const { return lease_.worker(); }

 private:
  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;
  absl::Status Accept();  // response_; an error if it breaks the rules
  absl::Status EndStatus(const grpc::Status& status);

  const WorkerLease lease_;
  const v1::WorkerServiceStreamGenerateRequest request_;
  GenerationListener* const listener_;
  grpc::ClientContext context_;

  v1::WorkerServiceStreamGenerateResponse response_;  // of the read under way
  bool started_ = false, finished_ = false;           // read reactions only
  uint64_t next_token_index_;

  absl::Mutex mu_;
  absl::Status cancelled_ ABSL_GUARDED_BY(mu_);  // why; OK: it was not
};

}  // namespace clamor
