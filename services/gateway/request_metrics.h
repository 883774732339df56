// Counts, times, logs and traces every request of a gateway.
// Tested by tests/services/gateway/streaming_test.cc.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "services/gateway/admission.h"
#include "services/gateway/worker_channel.h"
#include "services/tracing/tracer.h"

namespace clamor {

// The gateway's metric families. Threads: any.
struct GatewayMetrics {
  explicit GatewayMetrics(prometheus::Registry* registry);  // which must outlive this
  void UpdateWorkers(std::span<const WorkerSnapshot> workers);
  void UpdateQueues(const Admission& admission);

  prometheus::Family<prometheus::Counter>& requests;    // method, outcome, reason
  prometheus::Family<prometheus::Counter>& rejections;  // reason
  prometheus::Family<prometheus::Gauge>& worker_up;     // worker: its series goes when it goes
  prometheus::Family<prometheus::Gauge>& breaker_open;  // worker, likewise
  prometheus::Family<prometheus::Gauge>& queue_depth;   // priority
  prometheus::Histogram& time_to_first_token;
  prometheus::Histogram& inter_token;
  prometheus::Histogram& request_seconds;
  prometheus::Family<prometheus::Counter>& failovers;  // reason, outcome
  prometheus::Histogram& failover_pause;
  prometheus::Gauge& streams_open;
  prometheus::Gauge& sessions;  // as many as the store has
  Tracer* tracer = nullptr;     // of requests' spans; constant since the first request

 private:
  absl::Mutex mu_;
  std::map<std::string, std::pair<prometheus::Gauge*, prometheus::Gauge*>> workers_
      ABSL_GUARDED_BY(mu_);  // up, breaker
};

// One request, from its arrival to its end. Not thread-safe.
class RequestRecord {
 public:
  // `metrics` must outlive this; `method` is a literal. `caller` is where its sender stands in a trace.
  RequestRecord(GatewayMetrics* metrics, const char* method, const TraceContext& caller);

  // Where what it leads to goes on.
  TracePlace place() const { return {metrics_->tracer, span_.context()}; }
  // It has passed all checks.
  void Prepared(const std::string& model, int64_t prompt_tokens);

  void Admitted();                             // a worker has started it
  void Tokens(size_t answer, int64_t tokens);  // came from the worker
  // Once, last. `id` and `tenant` are for the log.
  void End(const absl::Status& status, const std::string& id, const std::string& tenant);

 private:
  GatewayMetrics* metrics_;
  const char* method_;
  absl::Time arrival_;
  std::vector<absl::Time> last_tokens_;  // of each answer
  bool admitted_ = false;
  int64_t tokens_ = 0;
  Span span_;
};

}  // namespace clamor
