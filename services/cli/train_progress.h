// The progress line of a training run on stderr: redrawn in place on a terminal, now and then a line
// elsewhere.
//
// Tested by tests/services/cli/train_test.py.
#pragma once

#include <cstdint>
#include <string>

#include "model/train/trainer.h"

namespace clamor::cli {

class TrainProgress {
 public:
  // `steps`: of the whole run; `begun`: done before this process started.
  TrainProgress(int64_t steps, int64_t begun);

  // `seconds`: of training in this process so far, for speed and the time left.
  void Show(const TrainingStep& step, double seconds);
  // A line of its own above the bar.
  void Say(const std::string& line);
  void Finish();

 private:
  const int64_t steps_, begun_;
  const bool terminal_;
  int64_t tokens_ = 0;
  double loss_ = 0;         // smoothed
  double shown_at_ = -1e9;  // seconds
  bool bar_shown_ = false;
};

}  // namespace clamor::cli
