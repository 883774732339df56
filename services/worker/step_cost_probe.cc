#include "services/worker/step_cost_probe.h"

#include <algorithm>

#include "absl/time/clock.h"

namespace clamor {
namespace {

constexpr int kRuns =
    3;  // at most, and as many as fit kEnough seconds: the fastest counts, others were disturbed
constexpr double kEnough = 0.06;
constexpr double kTooSlow = 0.1;  // seconds of one pass

// `rows` tokens of one sequence, all of whose logits are wanted, as a verification step wants them.
void FillBatch(int32_t rows, const KvLease& pages, Batch& batch) {
  batch.Clear();
  for (int32_t i = 0; i < rows; ++i) {
    batch.tokens.push_back(0);
    batch.positions.push_back(i);
    batch.slots.push_back(pages.Slot(i));
    batch.attention.push_back({.pages = pages.pages().data(), .prefix = i + 1});
    batch.logit_rows.push_back(i);
  }
}

}  // namespace

std::array<double, StepCost::kRows.size()> ProbeStepCost(int32_t max_positions, KvCache& cache,
                                                         ForwardPass& pass) {
  std::array<double, StepCost::kRows.size()> seconds{};
  Batch batch;
  for (size_t i = 0; i < seconds.size(); ++i) {
    const int32_t rows = StepCost::kRows[i];
    KvLease pages;
    if (rows > max_positions || !cache.Grow(pages, rows)) break;
    FillBatch(rows, pages, batch);
    if (i == 0) pass.Forward(batch);  // warms up
    double spent = 0;
    for (int run = 0; run < kRuns && spent < kEnough; ++run) {
      const absl::Time begin = absl::Now();
      pass.Forward(batch);
      const double took = absl::ToDoubleSeconds(absl::Now() - begin);
      seconds[i] = run > 0 ? std::min(seconds[i], took) : took;
      spent += took;
    }
    if (seconds[i] > kTooSlow) break;
  }
  return seconds;
}

}  // namespace clamor
