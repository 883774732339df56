// A training run as a user sees it: data, memory, steps with progress, evaluations, checkpoints, and what is
// left in the output folder (train_folder.h).
//
// Tested by tests/services/cli/train_test.py.
#pragma once

#include "absl/status/status.h"
#include "services/cli/train_flags.h"

namespace clamor::cli {

// CANCELLED after Ctrl-C, once everything is saved. All other errors name the flag, the file or the line.
absl::Status Train(TrainFlags flags);

}  // namespace clamor::cli
