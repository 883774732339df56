// A Lookup asked of one server and, if that takes long or fails, of another that has the same documents: the
// first good answer counts.
//
// "Long" is what 19 of 20 answers of late took less than. Of all lookups at most one in twenty is asked twice
// for that; those that failed are asked again as often as they fail, which costs the first server nothing.
//
// Threads: all methods may be called from any thread. Tested by tests/services/worker/hedged_lookup_test.cc.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "clamor/v1/retrieval.grpc.pb.h"
#include "grpcpp/channel.h"

namespace clamor {

// Why the second server was asked, and whether its answer counted: labels of
// clamor_worker_retrieval_hedges_total.
enum class Hedge : uint8_t { kSlowWon, kSlowLost, kFailedWon, kFailedLost };
inline constexpr size_t kHedges = 4;
std::string_view HedgeName(Hedge hedge);  // "slow_won", "slow_lost", "failed_won", "failed_lost"

class HedgedLookup {
 public:
  // Status and answer of one lookup; the answer may be taken.
  using Done = std::function<void(const grpc::Status& status, v1::LookupResponse& response)>;
  using Observer = std::function<void(Hedge hedge)>;  // from any thread

  // `second` may be null: there is none. An answer that takes `timeout` is given up.
  HedgedLookup(const std::shared_ptr<grpc::ChannelInterface>& first,
               const std::shared_ptr<grpc::ChannelInterface>& second, absl::Duration timeout,
               Observer observer);
  // Cancels what is under way and waits for it.
  ~HedgedLookup();

  // Calls `done` once, on a thread of gRPC.
  void Start(v1::LookupRequest request, Done done);

  // What is under way ends soon, as CANCELLED.
  void Cancel();

 private:
  class Flight;

  bool Quiet() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return flights_.empty() && ending_ == 0; }
  // How long the first server has; infinite if there is no second.
  absl::Duration Delay();
  bool MayHedge();
  void OnFirst(absl::Duration took);

  const std::unique_ptr<v1::RetrievalService::Stub> first_, second_;
  const absl::Duration timeout_;
  const Observer observer_;

  absl::Mutex mu_;
  absl::flat_hash_set<Flight*> flights_ ABSL_GUARDED_BY(mu_);
  int ending_ ABSL_GUARDED_BY(mu_) = 0;        // no longer in flights_ and not yet gone
  absl::Duration usual_ ABSL_GUARDED_BY(mu_);  // that 19 of 20 answers take less than
  double allowance_ ABSL_GUARDED_BY(mu_) = 1;  // hedges that may be sent
};

}  // namespace clamor
