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
#include "services/gateway/prefix_memory.h"
#include "services/gateway/served_model.h"
#include "services/gateway/successor_search.h"
#include "services/gateway/worker_channel.h"
#include "services/security/tls.h"

namespace clamor {

// What a request asks of a worker.
struct WorkerWanted {
  std::string model;
  std::string tokenizer = {};  // fingerprint; empty: any
  std::string tenant = {};
  std::span<const uint32_t> prompt = {};  // borrowed for the call
  const v1::ModelInfo* like = nullptr;    // unless null, who answers as this does; likewise borrowed
  std::string affinity = {};              // see Route
};

struct FleetOptions {
  absl::Duration hang_after = WorkerChannel::kHangAfter;  // a worker that stands still for as long is hung
  absl::Duration failover_wait =
      absl::Seconds(5);  // for a worker that can go on with an answer, if there is none yet
  TlsOptions tls;        // of the way to the workers
};

class Fleet {
 public:
  // Workers at HOST:PORT; more may come and go by SetWorkers.
  explicit Fleet(const std::vector<std::string>& addresses, const FleetOptions& options = {});
  // REQUIRES: no lease is left.
  ~Fleet();

  // Begins to keep contact with every worker; once. `on_ready` hears whether any is ready, now and whenever
  // that changes, on any thread, until the destructor returns.
  void Connect(std::function<void(bool)> on_ready);

  // The model of that name; empty: the only one. NOT_FOUND "[MODEL_NOT_FOUND]"; UNAVAILABLE "[NO_WORKER]" if
  // no worker was ever reached; INVALID_ARGUMENT if `name` is empty and there are several.
  absl::StatusOr<std::shared_ptr<const ServedModel>> FindModel(const std::string& name) const;

  // A worker for one request. UNAVAILABLE "[NO_WORKER]" if none of the model is ready.
  absl::StatusOr<WorkerLease> Acquire(const std::string& model) {
    return Acquire(WorkerWanted{.model = model});
  }
  // Likewise, and the worker is remembered as the one that reads this prompt. "[NO_COMPATIBLE_WORKER]" if one
  // is wanted that answers as another does, and none is ready.
  absl::StatusOr<WorkerLease> Acquire(const WorkerWanted& wanted);
  // One that answers as `like` does. UNAVAILABLE "[NO_COMPATIBLE_WORKER]" if none is ready.
  absl::StatusOr<WorkerLease> AcquireLike(const v1::ModelInfo& like);

  // These are all workers from now on, each once. Who is new is met; who is not among them any more gets
  // no requests, its streams leave if others can go on with them, and when it has none it goes, at the next
  // call: so call it every now and then, from one thread at a time.
  void SetWorkers(std::vector<WorkerAddress> workers);
  // NOT_FOUND if no worker has that address.
  absl::Status SetHold(const std::string& address, Hold hold);

  // Calls `use` with each worker, those that are about to go included; it must not wait.
  void ForEach(const std::function<void(WorkerChannel&)>& use) const;
  void ForgetTenant(const std::string& tenant);

  // Workers for answers that have lost theirs.
  SuccessorSearch& successors() { return successors_; }
  const FleetOptions& options() const { return options_; }

  // In the order in which they came, without those that are about to go.
  std::vector<WorkerSnapshot> Snapshots() const;

 private:
  void OnChange();
  void RelieveDraining();
  std::vector<WorkerSnapshot> SnapshotsOfWorkers() const ABSL_SHARED_LOCKS_REQUIRED(workers_mu_);
  std::optional<WorkerLease> FindSuccessor(const SuccessorSearch::Wanted& wanted);

  const FleetOptions options_;
  const std::shared_ptr<grpc::ChannelCredentials> credentials_;
  std::atomic<uint64_t> turn_ = 0;

  // Never held when a worker is destroyed, which waits for its thread, which may wait for it.
  mutable absl::Mutex workers_mu_;
  std::vector<std::unique_ptr<WorkerChannel>> workers_ ABSL_GUARDED_BY(workers_mu_);
  std::vector<std::unique_ptr<WorkerChannel>> leaving_ ABSL_GUARDED_BY(workers_mu_);
  bool connected_ ABSL_GUARDED_BY(workers_mu_) = false;

  absl::Mutex prefixes_mu_;
  PrefixMemory prefixes_ ABSL_GUARDED_BY(prefixes_mu_);

  SuccessorSearch successors_;  // looks at the workers

  absl::Mutex ready_mu_;  // held while a change is dealt with: on_ready_ hears the states in order
  std::function<void(bool)> on_ready_ ABSL_GUARDED_BY(ready_mu_);
};

}  // namespace clamor
