// The gateway's line to one worker: keeps it connected, knows its model, health and load.
//
// A thread asks for the model and the tokenizer, watches health and polls the load; when the worker is lost
// it tries again, waiting 0.1 s to 1 s between tries, until it is back. A worker is hung if it lets a poll go
// unanswered for `hang_after` and sends nothing on any stream meanwhile, or if its engine stands still for as
// long (and for several times what its slowest steps take): its streams are then told to leave.
// Threads: all methods, any thread.
// Tested by tests/services/gateway/worker_channel_test.cc.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "clamor/v1/model.pb.h"
#include "clamor/v1/worker.grpc.pb.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/security/credentials.h"
#include "services/circuit_breaker.h"
#include "services/gateway/served_model.h"

namespace clamor {

// What is known of a worker at one moment.
struct WorkerSnapshot {
  std::string address;
  v1::WorkerState state = v1::WORKER_STATE_DOWN;
  std::shared_ptr<const ServedModel> model;  // null until it was reached once; kept while it is down
  v1::WorkerLoad load;                       // as last polled
  int streams = 0;                           // open through this gateway now
  int streams_at_poll = 0;                   // and when the load was polled
  bool cordoned = false;                     // takes no requests, but keeps its streams, whatever its state
  bool breaker_open = false;  // has failed too often of late: gets no requests but one now and then
};

// Where a worker is.
struct WorkerAddress {
  std::string address;   // HOST:PORT
  std::string tls_name;  // that its certificate must have; empty: HOST
  friend auto operator<=>(const WorkerAddress&, const WorkerAddress&) = default;
};

// What the gateway keeps from a worker, whatever the worker says of itself.
enum class Hold {
  kNone,
  kCordoned /* new requests */,
  kDrained /* those, and streams leave if others go on */
};

// Why a worker does not go on with an answer.
enum class Loss { kDied, kHung, kDrained, kDamaged /* what it sent */ };
const char* LossName(Loss loss);  // "died", ...

class WorkerChannel {
 public:
  // Credentials: null is plaintext.
  explicit WorkerChannel(WorkerAddress address, absl::Duration hang_after = kHangAfter,
                         const std::shared_ptr<grpc::ChannelCredentials>& credentials = nullptr);
  // REQUIRES: no lease is left.
  ~WorkerChannel();

  // Begins to keep contact; once. `on_change` is called when the state has changed, on any thread, with no
  // lock held, until the destructor returns.
  void Connect(std::function<void()> on_change);

  WorkerSnapshot Snapshot() const;
  v1::WorkerService::StubInterface& stub() { return *stub_; }
  // Readies a StreamGenerate for `reactor`, which writes the request and reads serialized
  // WorkerServiceStreamGenerateResponses.
  using GenerateReactor = grpc::ClientBidiReactor<v1::WorkerServiceStreamGenerateRequest, grpc::ByteBuffer>;
  void PrepareGenerate(grpc::ClientContext* context, GenerateReactor* reactor);
  const WorkerAddress& where() const { return where_; }
  const std::string& address() const { return where_.address; }

  // A stream broke: no more requests until the worker has answered again.
  void ReportLost();
  // It refused a request because it drains: no more requests.
  void ReportDraining();
  // A stream begins, and ends: well, or by the worker's own fault, or in a way that tells nothing of it. Too
  // many faults in a row and it gets no requests but one now and then, until one ends well, or until it comes
  // back from being unreachable, another process maybe.
  void ReportBegin();
  void ReportEnd(std::optional<bool> good);
  void SetHold(Hold hold);
  // Something came on a stream.
  void ReportAlive() { last_sign_ = std::chrono::steady_clock::now(); }
  // Every stream, and each that opens from now on, shall leave: until the worker is ready again. Nothing if
  // it is ready.
  void SendAway(Loss why);

  static constexpr absl::Duration kHangAfter = absl::Milliseconds(1500);

 private:
  friend class WorkerLease;
  using Leave = std::function<void(Loss)>;
  void KeepContact();
  absl::Status Meet();                  // model and tokenizer
  void FollowUntilLost(bool was_away);  // health and load
  absl::Status PollLoad();
  grpc::Status AskForLoad(grpc::ClientContext* context, v1::GetLoadResponse* response);
  void Hung(const char* how);
  grpc::Status Call(absl::Duration timeout, const std::function<grpc::Status(grpc::ClientContext*)>& call);
  void Update(const std::function<void()>& change) ABSL_LOCKS_EXCLUDED(mu_);
  double Stretch() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);  // 0.75 to 1.25, by chance

  const WorkerAddress where_;
  const absl::Duration hang_after_;
  std::function<void()> on_change_;  // constant since Connect
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::WorkerService::StubInterface> stub_;
  grpc::TemplatedGenericStub<v1::WorkerServiceStreamGenerateRequest, grpc::ByteBuffer> generate_;

  std::atomic<std::chrono::steady_clock::time_point> last_sign_{};  // of life

  mutable absl::Mutex mu_;
  WorkerSnapshot snapshot_ ABSL_GUARDED_BY(mu_);
  bool serving_ ABSL_GUARDED_BY(mu_) = false;  // as health says
  bool lost_ ABSL_GUARDED_BY(mu_) = true;
  bool stalled_ ABSL_GUARDED_BY(mu_) = false;  // its engine
  Hold hold_ ABSL_GUARDED_BY(mu_) = Hold::kNone;
  CircuitBreaker breaker_ ABSL_GUARDED_BY(mu_);
  std::mt19937 chance_ ABSL_GUARDED_BY(mu_){std::random_device()()};
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<Loss> sent_away_ ABSL_GUARDED_BY(mu_);     // why streams shall leave
  std::map<uint64_t, Leave> leaves_ ABSL_GUARDED_BY(mu_);  // of the leases, by number
  uint64_t next_lease_ ABSL_GUARDED_BY(mu_) = 0;
  grpc::ClientContext* in_call_ ABSL_GUARDED_BY(mu_) =
      nullptr;  // of the contact thread, for the destructor to cancel

  std::thread contact_;  // last: runs KeepContact over all of the above
};

// One open stream to a worker, counted in its snapshot.
class WorkerLease {
 public:
  explicit WorkerLease(WorkerChannel* worker);
  ~WorkerLease();
  WorkerLease(WorkerLease&& other) noexcept
      : worker_(std::exchange(other.worker_, nullptr)),
        number_(other.number_),
        model_(std::move(other.model_)) {}
  WorkerLease& operator=(WorkerLease&&) = delete;

  // `leave` is called when the stream shall leave the worker, at once if that is so now; on any thread, maybe
  // more than once, never after the lease is gone. It must call neither the worker nor the lease. Once.
  void OnLeave(std::function<void(Loss)> leave) const;

  WorkerChannel& worker() const { return *worker_; }
  // As known when the lease was made; null if the worker was never reached.
  const std::shared_ptr<const ServedModel>& model() const { return model_; }

 private:
  WorkerChannel* worker_;  // outlives the lease
  uint64_t number_;
  std::shared_ptr<const ServedModel> model_;
};

}  // namespace clamor
