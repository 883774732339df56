// What a log comes to in numbers, for key figures and tables. Pure functions; a number that is not known is
// NaN. Tested by tests/model/train/report_test.cc.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "model/train/training_log.h"

namespace clamor {

// First, last and lowest of a series, of its finite values.
struct Course {
  double first = NAN, last = NAN, lowest = NAN;
  int64_t first_step = 0, last_step = 0, lowest_step = 0;
  int64_t values = 0;
};

struct DraftCourse {
  std::string draft;  // as in LoggedSpeed
  Course course;
};

struct Figures {
  Course training_loss;  // smoothed as in the chart
  Course heldout_loss;
  std::vector<DraftCourse> speeds;
  int64_t steps = 0;  // done by the last event
  double epochs = NAN;
  int64_t tokens = 0;
  double tokens_per_second = NAN;  // median of the steps
  double seconds = NAN;
  int64_t peak_memory_bytes = 0;  // 0: not known
  int64_t bad_losses = 0;         // logged steps whose loss was not finite
  int64_t first_bad_step = 0;
};

Figures FiguresOf(const TrainingLog& log);

}  // namespace clamor
