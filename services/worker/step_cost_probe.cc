#include "services/worker/step_cost_probe.h"

#include <algorithm>

#include "absl/time/clock.h"

namespace clamor {
namespace {

constexpr int kRuns = 3;          // the fastest counts: others were disturbed
constexpr double kTooSlow = 0.5;  // seconds

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

std::array<double, StepCost::kRows.size()> ProbeStepCost(const Transformer& model, KvCache& cache,
                                                         Activations& scratch, kernels::ThreadPool& pool) {
  std::array<double, StepCost::kRows.size()> seconds{};
  Batch batch;
  for (size_t i = 0; i < seconds.size(); ++i) {
    const int32_t rows = StepCost::kRows[i];
    KvLease pages;
    if (rows > model.max_positions() || !cache.Grow(pages, rows)) break;
    FillBatch(rows, pages, batch);
    for (int run = 0; run <= kRuns; ++run) {
      const absl::Time begin = absl::Now();
      model.Forward(batch, cache, scratch, pool);
      const double took = absl::ToDoubleSeconds(absl::Now() - begin);
      if (run > 0 || took > kTooSlow)
        seconds[i] = seconds[i] > 0 ? std::min(seconds[i], took) : took;  // run 0 warms up
      if (took > kTooSlow) break;
    }
    if (seconds[i] > kTooSlow) break;
  }
  return seconds;
}

}  // namespace clamor
