// The gate before the workers: a request passes it before a worker hears of it and leaves it when its last
// answer has ended. Who passes is for admission_policy.h to say, one for each model; here are the locks, the
// clock, and what the workers can hold.
//
// Threads: all methods, any thread. One of its own tells those who waited.
// Tested by tests/services/gateway/admission_test.cc.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "clamor/v1/worker.pb.h"
#include "services/gateway/admission_policy.h"
#include "services/gateway/worker_channel.h"
#include "services/security/authenticator.h"

namespace clamor {

// What the ready workers of a model can hold together for this gateway: beside what other gateways have
// there, and with a few requests at hand for when a place becomes free. A worker that does not tell makes
// that number unknown.
Capacity CapacityOf(const std::vector<WorkerSnapshot>& workers, const std::string& model);

// What a request is to the gate.
AdmissionRequest AdmissionRequestOf(const v1::WorkerServiceStreamGenerateRequest& request, const Quota& quota,
                                    absl::Time deadline, const AdmissionOptions& options);

class Admission {
 public:
  using Workers = std::function<std::vector<WorkerSnapshot>()>;
  // Called once, on the gate's thread, with no lock held. OK: it may begin.
  using Entered = std::function<void(absl::Status)>;

  // `authenticator` must outlive this and `workers` not wait.
  Admission(const AdmissionOptions& options, const Authenticator* authenticator, Workers workers);
  // REQUIRES: all that entered have left.
  ~Admission();

  // For Enter, GiveUp and Leave of one request.
  uint64_t NewTicket() { return next_ticket_++; }

  // True: the request may begin at once. False: it waits, and `entered` will tell. An error refuses it as
  // AdmissionPolicy::Enter does, and there is nothing to leave.
  absl::StatusOr<bool> Enter(uint64_t ticket, const std::string& model,
                             const v1::WorkerServiceStreamGenerateRequest& request, absl::Time deadline,
                             Entered entered);
  // Ends the waiting soon, with CANCELLED; nothing if it does not wait any more.
  void GiveUp(uint64_t ticket);
  // Of one that began, or of one that waited and was told OK: `used` tokens of prompt and answers.
  void Leave(uint64_t ticket, int64_t used);

  int64_t waiting(Rank rank) const;  // over all models

 private:
  struct Gate {
    explicit Gate(const AdmissionOptions& options) : policy(options) {}
    AdmissionPolicy policy;
    absl::Time measured = absl::InfinitePast();
  };
  struct Place {
    Gate* gate;
    Entered entered;  // null: it does not wait
    bool given_up = false;
  };
  struct End {
    Entered entered;
    absl::Status status;
  };
  void Run();
  void Measure(const std::string& model, Gate& gate, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::vector<End> Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Time NextChange(absl::Time now) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const AdmissionOptions options_;
  const Authenticator* const authenticator_;
  const Workers workers_;
  std::atomic<uint64_t> next_ticket_ = 1;

  mutable absl::Mutex mu_;
  std::map<std::string, Gate> gates_ ABSL_GUARDED_BY(mu_);  // by model
  std::map<uint64_t, Place> places_ ABSL_GUARDED_BY(mu_);   // by ticket
  bool changed_ ABSL_GUARDED_BY(mu_) = false;               // since the thread looked
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;  // last: runs over all of the above
};

}  // namespace clamor
