// Who runs in the next step: a pure function of what each sequence still has to read.
//
// Tested by tests/services/worker/scheduler_test.cc.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace clamor {

// One sequence's part of a step: first `prefill` known tokens, then, if `decode`, its newest token and a
// draft tree.
struct StepShare {
  int32_t sequence = 0;  // index into what Schedule was given
  int32_t prefill = 0;
  bool decode = false;
};

// `unread`: per sequence, oldest first, tokens that stand before its newest one and are not yet in the cache.
// Sequences that have none decode, every step; the others share `prefill_chunk` tokens in order of age, and
// one whose last tokens are read decodes in the same step. REQUIRES: prefill_chunk > 0.
void Schedule(std::span<const int64_t> unread, int32_t prefill_chunk, std::vector<StepShare>& plan);

// Likewise, but those that have nothing to read sit the step out.
void ScheduleReaders(std::span<const int64_t> unread, int32_t prefill_chunk, std::vector<StepShare>& plan);

}  // namespace clamor
