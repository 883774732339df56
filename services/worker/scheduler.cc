#include "services/worker/scheduler.h"

#include <algorithm>

namespace clamor {

void Schedule(std::span<const int64_t> unread, int32_t prefill_chunk, std::vector<StepShare>& plan) {
  plan.clear();
  for (size_t i = 0; i < unread.size(); ++i) {
    if (unread[i] == 0) plan.push_back({.sequence = static_cast<int32_t>(i), .decode = true});
  }
  int64_t left = prefill_chunk;
  for (size_t i = 0; i < unread.size() && left > 0; ++i) {
    if (unread[i] == 0) continue;
    const int64_t take = std::min(left, unread[i]);
    plan.push_back({.sequence = static_cast<int32_t>(i),
                    .prefill = static_cast<int32_t>(take),
                    .decode = take == unread[i]});
    left -= take;
  }
}

}  // namespace clamor
