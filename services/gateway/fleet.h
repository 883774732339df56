// All workers of a gateway.
//
// Threads: all methods, any thread. Tested by tests/services/gateway/gateway_test.cc.
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
  // Connects to every address. `on_ready` hears whether any worker is ready, at least whenever that changes, on any
  // thread, until the destructor returns.
  Fleet(const std::vector<std::string>& addresses, std::function<void(bool)> on_ready);
  // REQUIRES: no lease is left.
  ~Fleet();

  // The model of that name; empty: the only one. NOT_FOUND "[MODEL_NOT_FOUND]"; UNAVAILABLE "[NO_WORKER]" if no worker was
  // ever reached; INVALID_ARGUMENT if `name` is empty and there are several.
  absl::StatusOr<std::shared_ptr<const ServedModel>> FindModel(const std::string& name) const;

  // A worker for one request. UNAVAILABLE "[NO_WORKER]" if none of the model is ready.
  absl::StatusOr<WorkerLease> Acquire(const std::string& model);

  // In the order of the addresses.
  std::vector<WorkerSnapshot> Snapshots() const;

 private:
  void ReportReady();

  const std::function<void(bool)> on_ready_;
  std::atomic<uint64_t> turn_ = 0;
  std::vector<std::unique_ptr<WorkerChannel>> workers_;  // filled by the constructor

  absl::Mutex ready_mu_;  // held while on_ready_ runs: it hears the states in order
  bool complete_ ABSL_GUARDED_BY(ready_mu_) = false;  // workers_ may be looked at
};

}  // namespace clamor
