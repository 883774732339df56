// What came of the requests of one phase of a load.
//
// A request is good if it ended well, by its deadline if it has one, and within the objectives. Refused are
// those that a server turned away before it began, other than for being late; who was neither refused nor
// given up by the client is admitted. Tested by tests/services/cli/bench_figures_test.cc.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "services/cli/bench_histogram.h"
#include "services/cli/bench_stream.h"

namespace clamor::cli {

// At most, in seconds.
struct Objectives {
  static constexpr double kAny = std::numeric_limits<double>::infinity();
  double first_token = kAny;
  double inter_token = kAny;  // on average over the answer
  double total = kAny;
};

enum class Outcome { kOk, kRefused, kFailed, kAborted, kCut };
inline constexpr const char* kOutcomeNames[] = {"ok", "refused", "failed", "aborted", "cut"};

// REQUIRES: the stream has ended. `cut`: the load ended it.
Outcome OutcomeOf(const StreamResult& result, bool cut);
bool IsGood(const StreamResult& result, const Objectives& objectives);

struct Counts {
  int64_t sent = 0, good = 0;
  std::array<int64_t, 5> outcomes{};  // by Outcome
  int64_t of(Outcome outcome) const { return outcomes[static_cast<size_t>(outcome)]; }
  int64_t admitted() const { return of(Outcome::kOk) + of(Outcome::kFailed); }
};

struct ErrorCounts {
  int64_t requests = 0, told_when_to_retry = 0;
};

struct PhaseFigures {
  // How it was run.
  double rate = 0;          // requests a second that were due; 0: closed loop
  int32_t concurrency = 0;  // of a closed loop
  double seconds = 0;       // for which requests were sent and counted
  bool complete = false;    // not interrupted

  Counts all;
  std::array<Counts, 3> by_priority;                                        // low, normal, high
  std::array<TimeHistogram, 3> first_token_by_priority, total_by_priority;  // of those that ended well
  TimeHistogram first_token, inter_token, total;                            // of those that ended well
  TimeHistogram refusal;                                                    // until refused
  TimeHistogram late;   // requests that were sent after they were due: by how much
  int64_t tokens = 0;   // received, of whatever answers
  int64_t skipped = 0;  // due while as many were open as may be
  double client_cpu_seconds = 0;
  std::map<std::string, ErrorCounts> errors;  // by reason, else by code; at most kMaxErrors

  // The requests that were due in each `slice_seconds` of the phase.
  struct Slice {
    Counts counts;
    TimeHistogram first_token;
  };
  LoadClock::time_point begin;  // of the first
  double slice_seconds = 1;
  std::vector<Slice> slices;

  static constexpr size_t kMaxErrors = 64;   // the others are "OTHER"
  static constexpr size_t kMaxSlices = 300;  // each of whole seconds

  // A phase in which requests are due for `seconds` from `begin` on.
  static PhaseFigures Over(double seconds, LoadClock::time_point begin);
  void Add(const StreamResult& result, Outcome outcome, const Objectives& objectives);

  double goodput() const { return seconds > 0 ? static_cast<double>(all.good) / seconds : 0; }
  double tokens_per_second() const { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0; }
};

const char* PriorityName(size_t priority);  // "low", "normal", "high"

}  // namespace clamor::cli
