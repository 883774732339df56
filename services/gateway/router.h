// Chooses the worker of a request: a pure function of what is known of the workers.
// Tested by tests/services/gateway/router_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "services/gateway/prefix_memory.h"
#include "services/gateway/worker_channel.h"

namespace clamor {

// Requests per slot that `worker` has: those that others sent, as of the last poll, and ours as of now.
double RelativeLoad(const WorkerSnapshot& worker);

// What a request needs of a worker, and what speaks for one.
struct RouteWish {
  std::string model;
  std::string tokenizer = {};                  // fingerprint, if the prompt's ids come from one
  std::vector<PrefixMemory::Match> warm = {};  // who has read a beginning of the prompt, the longest first
  size_t prompt_tokens = 0;
};

// The index of the worker for a request: of those that are ready and have the model, the one that read the
// longest beginning of the prompt, unless another is less busy by more than that is worth: half a batch for
// the whole prompt. Else the one with the least load; among equals `turn` takes them in rotation. Those that
// fail (breaker) come after all others. None if there is none.
std::optional<size_t> Route(std::span<const WorkerSnapshot> workers, const RouteWish& wish, uint64_t turn);

// Likewise of those that answer as `like` does and whose addresses are not in `excluded`: who can go on with
// an answer.
std::optional<size_t> RouteSuccessor(std::span<const WorkerSnapshot> workers, const v1::ModelInfo& like,
                                     std::span<const std::string> excluded, uint64_t turn);

}  // namespace clamor
