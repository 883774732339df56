// One streamed request of a load: sent, read as its events come, timed. gRPC's few threads carry as many of
// them as are open.
//
// Tested by tests/services/cli/bench_test.py.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "clamor/v1/generation.grpc.pb.h"

namespace clamor::cli {

using LoadClock = std::chrono::steady_clock;

struct StreamPlan {
  std::variant<v1::StreamGenerateRequest, v1::StreamChatRequest> request;
  LoadClock::time_point due;                                 // times count from here, whenever it is sent
  std::optional<double> deadline;                            // seconds after `due`
  std::optional<int64_t> abort_after = {};                   // tokens: the client then cancels
  bool reads = true;                                         // false: takes nothing until it ends
  std::function<void(const v1::Delta&)> on_delta = nullptr;  // on gRPC's threads, one call at a time
  std::function<void(const absl::Status&)> over = nullptr;   // once, before Ended
};

// Times are in seconds after the request was due.
struct StreamResult {
  LoadClock::time_point due;
  v1::Priority priority = v1::PRIORITY_NORMAL;
  double sent = 0, total = 0;
  std::optional<double> first_token;
  bool started = false, aborted = false;
  int64_t tokens = 0;
  std::vector<std::pair<float, uint32_t>> gaps;  // between arrivals: seconds a token, tokens of the later one
  absl::Status status;                           // as FromGrpc gives it; OK only after a Finished
  bool told_when_to_retry = false;
};

class LoadStream {
 public:
  // Called once, last, on one of gRPC's threads; the stream is gone when it returns.
  using Ended = std::function<void(LoadStream*, StreamResult)>;

  // A stream that deletes itself when it has ended. `stub` must outlive it.
  static LoadStream* Make(v1::GenerationService::Stub* stub, StreamPlan plan, Ended ended);
  virtual void Start() = 0;   // once
  virtual void Cancel() = 0;  // any thread, until Ended is called

 protected:
  virtual ~LoadStream() = default;
};

}  // namespace clamor::cli
