#include "services/worker/scheduler.h"

#include <algorithm>

namespace clamor {

namespace {

void AddReaders(std::span<const int64_t> unread, int64_t left, std::vector<StepShare>& plan) {
  for (size_t i = 0; i < unread.size() && left > 0; ++i) {
    if (unread[i] == 0) continue;
    const int64_t take = std::min(left, unread[i]);
    plan.push_back({.sequence = static_cast<int32_t>(i),
                    .prefill = static_cast<int32_t>(take),
                    .decode = take == unread[i]});
    left -= take;
  }
}

}  // namespace

void Schedule(std::span<const int64_t> unread, int32_t prefill_chunk, std::vector<StepShare>& plan) {
  plan.clear();
  for (size_t i = 0; i < unread.size(); ++i) {
    if (unread[i] == 0) plan.push_back({.sequence = static_cast<int32_t>(i), .decode = true});
  }
  AddReaders(unread, prefill_chunk, plan);
}

void ScheduleReaders(std::span<const int64_t> unread, int32_t prefill_chunk, std::vector<StepShare>& plan) {
  plan.clear();
  AddReaders(unread, prefill_chunk, plan);
}

}  // namespace clamor
