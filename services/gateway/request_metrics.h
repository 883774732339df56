// Counts, times and logs every request of a gateway.
// Tested by tests/services/gateway/streaming_test.cc.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "services/gateway/worker_channel.h"

namespace clamor {

// The gateway's metric families. Threads: any.
struct GatewayMetrics {
  explicit GatewayMetrics(prometheus::Registry* registry);  // which must outlive this
  void UpdateWorkers(std::span<const WorkerSnapshot> workers);

  prometheus::Family<prometheus::Counter>& requests;    // method, outcome, reason
  prometheus::Family<prometheus::Counter>& rejections;  // reason
  prometheus::Family<prometheus::Gauge>& worker_up;     // worker
  prometheus::Histogram& time_to_first_token;
  prometheus::Histogram& inter_token;
  prometheus::Histogram& request_seconds;
  prometheus::Family<prometheus::Counter>& failovers;  // reason, outcome
  prometheus::Histogram& failover_pause;
  prometheus::Gauge& streams_open;
  prometheus::Gauge& sessions;  // as many as the store has
};

// One request, from its arrival to its end. Not thread-safe.
class RequestRecord {
 public:
  // `metrics` must outlive this; `method` is a literal.
  RequestRecord(GatewayMetrics* metrics, const char* method);

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
};

}  // namespace clamor
