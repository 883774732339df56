// One answer, from as many workers as it takes: if its worker is lost, the answer goes on with an equal one,
// and the listener hears nothing but a pause.
//
//   worker lost -> (is the request to blame?) -> successor found -> prompt and emitted ids go there -> the
//   next Delta
//
// Ends of its own, beside those of WorkerCall:
//   nobody to go on with    UNAVAILABLE "[NO_COMPATIBLE_WORKER]"; "[NO_WORKER]" if no worker had admitted it
//   yet it kills its workers    ABORTED "[POISON_REQUEST]"
// Tested by tests/services/gateway/failover_test.cc.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/gateway/answer_journal.h"
#include "services/gateway/fleet.h"
#include "services/gateway/request_metrics.h"
#include "services/gateway/suspicion.h"
#include "services/gateway/worker_call.h"
#include "services/tracing/tracer.h"

namespace clamor {

class Admission;
class TenantUsage;

// What calls need beside their request; the pointers outlive them.
struct CallContext {
  Fleet* fleet;
  GatewayMetrics* metrics;
  absl::Time deadline;
  std::string revision = {};       // of the model that must answer; empty: any
  std::string affinity = {};       // requests of one go to one worker, as far as load allows
  Admission* admission = nullptr;  // null: whoever comes begins
  TenantUsage* usage = nullptr;    // null: nobody counts
  TracePlace trace = {};           // of the request
};

class AnswerCall final : private GenerationListener {
 public:
  // `lease` is of a worker that was reached; `listener` must outlive this and hears one event at a time.
  AnswerCall(const CallContext& context, WorkerLease lease, v1::WorkerServiceStreamGenerateRequest request,
             GenerationListener* listener);
  // REQUIRES: never started, or OnEnded was called.
  ~AnswerCall() override = default;

  void Start();  // once
  // As WorkerCall::Cancel.
  void Cancel(absl::Status why);

  // The worker that has the answer now. REQUIRES: called from the listener's OnStarted, OnDelta or
  // OnFinished.
  WorkerChannel& worker() const { return call_->worker(); }

 private:
  // Where the last worker was lost.
  struct Lost {
    std::string worker;
    Loss loss;
  };

  void OnStarted(v1::Started started) override;
  void OnDelta(v1::Delta delta) override;
  void OnFinished(v1::Finished finished) override;
  void OnEnded(const absl::Status& status) override;
  std::unique_ptr<WorkerCall> NewCall(WorkerLease lease);
  void Replace(Loss loss);
  void Search();
  void OnFound(std::optional<WorkerLease> lease);
  absl::Status NobodyGoesOn() const;
  void Count(const char* outcome) const;

  const CallContext context_;
  const v1::ModelInfo model_;  // of the first worker
  const std::string request_id_;
  GenerationListener* const listener_;

  // Belong to the events, which come one after the other.
  AnswerJournal journal_;
  Suspicion suspicion_;
  int losses_ = 0;                     // of workers, however it was
  std::optional<Lost> lost_;           // since a worker was lost, until another goes on
  absl::Time search_deadline_;         // since then
  std::vector<std::string> excluded_;  // workers that cannot go on with this answer
  absl::Time last_tokens_ = absl::InfiniteFuture();
  Span failover_;  // since a worker was lost, until another goes on or none can

  mutable absl::Mutex mu_;
  std::unique_ptr<WorkerCall>
      call_;  // changed with mu_ held and by events alone, so that these need not hold it
  std::optional<uint64_t> search_ ABSL_GUARDED_BY(mu_);  // a ticket
  absl::Status cancelled_ ABSL_GUARDED_BY(mu_);          // why; OK: it was not
};

}  // namespace clamor
