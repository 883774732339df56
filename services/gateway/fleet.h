// All workers of a gateway.
//
// Threads: all methods, any thread.
// Tested by tests/services/gateway/streaming_test.cc.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "services/gateway/served_model.h"
#include "services/gateway/worker_channel.h"

namespace clamor {

class Fleet {
 public:
  explicit Fleet(const std::vector<std::string>& addresses);
  // REQUIRES: no lease is left.
  ~Fleet();

  // Begins to keep contact with every worker; once. `on_ready` hears whether any is ready, now and whenever
  // that changes, on any thread, until the destructor returns.
  void Connect(std::function<void(bool)> on_ready);

  // The model of that name; empty: the only one. NOT_FOUND "[MODEL_NOT_FOUND]"; UNAVAILABLE "[NO_WORKER]" if
  // no worker was ever reached; INVALID_ARGUMENT if `name` is empty and there are several.
  absl::StatusOr<std::shared_ptr<const ServedModel>> FindModel(const std::string& name) const;

  // A worker for one request. UNAVAILABLE "[NO_WORKER]" if none of the model is ready.
  absl::StatusOr<WorkerLease> Acquire(const std::string& model);

  // In the order of the addresses.
  std::vector<WorkerSnapshot> Snapshots() const;

 private:
  void ReportReady();

  std::vector<std::unique_ptr<WorkerChannel>> workers_;
  std::atomic<uint64_t> turn_ = 0;

  absl::Mutex ready_mu_;  // held while on_ready_ runs: it hears the states in order
  std::function<void(bool)> on_ready_ ABSL_GUARDED_BY(ready_mu_);
};

}  // namespace clamor
