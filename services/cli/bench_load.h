// Load on a gateway, phase by phase: requests at random times at a set rate, whatever becomes of those before
// (open loop), or a set number of them at any time (closed loop).
//
// Times count from when a request was due, so that a server which holds the client up is not spared. Threads:
// one caller; streams are read by gRPC's. Tested by tests/services/cli/bench_test.py.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <unordered_set>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/channel.h"
#include "services/cli/bench_figures.h"
#include "services/cli/bench_stream.h"

namespace clamor::cli {

struct PhaseOptions {
  double rate = 0;               // requests a second; 0: closed loop
  int32_t concurrency = 1;       // of a closed loop
  double seconds = 10;           // for which requests are sent and counted
  double warmup_seconds = 0;     // before it, not counted
  int64_t requests = 0;          // counted ones at most; 0: no limit
  int32_t most_open = 4096;      // at a time; what is due beyond that is skipped
  double patience_seconds = 60;  // for what is open at the end; then it is cut
  Objectives objectives;
};

struct PhaseProgress {
  double seconds = 0, of_seconds = 0;
  int64_t open = 0;
  Counts counts;
};

class LoadGenerator {
 public:
  using NextRequest = std::function<StreamPlan(LoadClock::time_point due)>;  // called on Run's thread

  // Streams take the channels in turn.
  LoadGenerator(const std::vector<std::shared_ptr<grpc::Channel>>& channels, NextRequest next, uint64_t seed);

  // One phase; nothing is open before and after it. `stop` ends it early. `progress` is called a few times a
  // second.
  PhaseFigures Run(const PhaseOptions& options, const std::atomic<bool>& stop,
                   absl::FunctionRef<void(const PhaseProgress&)> progress);

 private:
  struct Phase;
  void SendWhileDue(Phase& phase) ABSL_LOCKS_EXCLUDED(mu_);
  void Drain(Phase& phase) ABSL_LOCKS_EXCLUDED(mu_);
  void Send(Phase& phase, LoadClock::time_point due);
  void Tick(Phase& phase, absl::Duration wait, absl::Condition until) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  std::vector<std::unique_ptr<v1::GenerationService::Stub>> stubs_;
  const NextRequest next_request_;
  std::mt19937_64 chance_;
  size_t next_stub_ = 0;

  absl::Mutex mu_;
  std::unordered_set<LoadStream*> open_ ABSL_GUARDED_BY(mu_);
};

// Processor time of this process so far, in seconds.
double ProcessorSeconds();

}  // namespace clamor::cli
