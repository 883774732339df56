// The curves of one or several runs as charts. Pure functions. Tested by tests/model/train/report_test.cc.
#pragma once

#include <string>
#include <vector>

#include "absl/types/span.h"
#include "model/train/line_chart.h"
#include "model/train/training_log.h"

namespace clamor {

struct Run {
  std::string name;        // in legends and tables; empty where there is one run
  const TrainingLog* log;  // borrowed for the call
};

// How many neighbours on both sides the smoothed curve of `steps` points averages.
size_t SmoothingReach(size_t steps);

// Training loss, held-out loss, tokens per forward, learning rate and gradient norm, as HTML; what was not
// logged is left out. Each run has its own colour; a single run's drafts have theirs.
std::string RenderCharts(absl::Span<const Run> runs);

// "plain", "8 nodes", "published": the draft of LoggedSpeed, for a reader.
std::string DraftName(const std::string& draft);

// The drafts of one run or of all, as LoggedSpeed names them, each once; the first few, as a page has room.
std::vector<std::string> DraftsOf(const TrainingLog& log);
std::vector<std::string> DraftsOf(absl::Span<const Run> runs);

// Held-out loss at each evaluation.
std::vector<Point> HeldoutCurve(const TrainingLog& log);

// Tokens per forward with `draft` at each evaluation that has it.
std::vector<Point> SpeedCurve(const TrainingLog& log, const std::string& draft);

}  // namespace clamor
