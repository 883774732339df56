// All workers of a gateway.
//
// Threads: all methods, any thread.
// Tested by tests/services/gateway/streaming_test.cc.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "services/gateway/served_model.h"
#include "services/gateway/successor_search.h"
#include "services/gateway/worker_channel.h"

namespace clamor {

struct FleetOptions {
  absl::Duration hang_after = WorkerChannel::kHangAfter;  // a worker that stands still for as long is hung
  absl::Duration failover_wait =
      absl::Seconds(5);  // for a worker that can go on with an answer, if there is none yet
};

class Fleet {
 public:
  explicit Fleet(const std::vector<std::string>& addresses, const FleetOptions& options = {});
  // REQUIRES: no lease is left.
  ~Fleet();

  // Begins to keep contact with every worker; once. `on_ready` hears whether any is ready, now and whenever
  // that changes, on any thread, until the destructor returns.
  void Connect(std::function<void(bool)> on_ready);

  // The model of that name; empty: the only one. NOT_FOUND "[MODEL_NOT_FOUND]"; UNAVAILABLE "[NO_WORKER]" if
  // no worker was ever reached; INVALID_ARGUMENT if `name` is empty and there are several.
  absl::StatusOr<std::shared_ptr<const ServedModel>> FindModel(const std::string& name) const;

  // A worker for one request, `affinity` as in Route. UNAVAILABLE "[NO_WORKER]" if none of the model is
  // ready.
  absl::StatusOr<WorkerLease> Acquire(const std::string& model, const std::string& affinity = "");
  // One that answers as `like` does. UNAVAILABLE "[NO_COMPATIBLE_WORKER]" if none is ready.
  absl::StatusOr<WorkerLease> AcquireLike(const v1::ModelInfo& like);

  // Workers for answers that have lost theirs.
  SuccessorSearch& successors() { return successors_; }
  const FleetOptions& options() const { return options_; }

  // In the order of the addresses.
  std::vector<WorkerSnapshot> Snapshots() const;

 private:
  void OnChange();
  void RelieveDraining(std::span<const WorkerSnapshot> snapshots);
  std::optional<WorkerLease> FindSuccessor(const SuccessorSearch::Wanted& wanted);

  const FleetOptions options_;
  std::vector<std::unique_ptr<WorkerChannel>> workers_;
  std::atomic<uint64_t> turn_ = 0;
  SuccessorSearch successors_;  // looks at the workers

  absl::Mutex ready_mu_;  // held while a change is dealt with: on_ready_ hears the states in order
  std::function<void(bool)> on_ready_ ABSL_GUARDED_BY(ready_mu_);
};

}  // namespace clamor
