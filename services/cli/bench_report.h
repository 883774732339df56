// What a load found, for a terminal, for programs and as a page. Pure functions.
//
// Tested by tests/services/cli/bench_figures_test.cc.
#pragma once

#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "services/cli/bench_figures.h"

namespace clamor::cli {

struct BenchReport {
  std::string server;
  nlohmann::ordered_json options;    // an object: what was asked for
  std::vector<PhaseFigures> phases;  // at least one
  size_t planned = 0;                // phases
  Objectives objectives;
  int64_t session_turns = 0;

  bool complete() const { return phases.size() == planned && phases.back().complete; }
  const PhaseFigures& best() const;  // of the highest goodput
};

// "rate 12/s" or "16 at a time".
std::string PhaseName(const PhaseFigures& phase);

// How to read the figures, and what speaks against them. One paragraph.
std::string BenchNotes(const BenchReport& report);

// For a terminal: notes and tables.
std::string RenderBenchText(const BenchReport& report);

// One object:
//   server, options{}, notes, complete, session_turns, peak{phase, goodput}, phases[PHASE]
// PHASE: rate (null in a closed loop), concurrency (null in an open one), seconds, complete, COUNTS, goodput,
//   tokens, tokens_per_second, skipped, first_token TIMES, inter_token TIMES, total TIMES, refusal TIMES,
//   late TIMES, client_cpu_seconds, by_priority{low, normal, high: {COUNTS, first_token TIMES, total TIMES}},
//   errors{reason: {requests, told_when_to_retry}}, slice_seconds, slices[{second, COUNTS, first_token
//   TIMES}]
// COUNTS: sent, ok, refused, failed, aborted, cut, good. TIMES: {count, mean, p50, p90, p99, max}, in
// seconds,
//   null where there are none.
nlohmann::ordered_json BenchJson(const BenchReport& report);

// One page that needs nothing else: tables and plots.
std::string RenderBenchPage(const BenchReport& report);

}  // namespace clamor::cli
