// report.html: a training log as one page that explains itself: key figures, curves, text samples, all
// options. The file needs nothing else (no network, no JavaScript to be read), follows the reader's light or
// dark, and stays under a megabyte however long the run. What comes from the log is text, whatever it holds.
// Pure functions. Tested by tests/model/train/report_test.cc.
#pragma once

#include <string>
#include <vector>

#include "model/train/training_log.h"

namespace clamor {

// The page of one run; of one without any event, too.
std::string RenderReport(const TrainingLog& log);

struct NamedLog {
  std::string name;  // "msn", for legends and tables
  TrainingLog log;
};

// Runs side by side: final figures, the options in which they differ, the same curves overlaid, their last
// texts. Of more than kMaxComparedRuns the first are shown.
inline constexpr size_t kMaxComparedRuns = 16;
std::string RenderComparison(const std::vector<NamedLog>& runs);

}  // namespace clamor
