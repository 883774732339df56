// Chooses the worker of a request: a pure function of what is known of the workers.
// Tested by tests/services/gateway/router_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "services/gateway/prefix_memory.h"
#include "services/gateway/worker_channel.h"

namespace clamor {

// Requests per slot that `worker` has: those that others sent, as of the last poll, and ours as of now.
double RelativeLoad(const WorkerSnapshot& worker);

// What having read a whole prompt is worth of load: requests per slot.
inline constexpr double kAffinityWorth = 0.5;

// What a request needs of a worker, and what speaks for one.
struct RouteWish {
  std::string model;
  std::string tokenizer = {};                  // fingerprint, if the prompt's ids come from one
  const v1::ModelInfo* like = nullptr;         // unless null, it must answer as this one does
  std::vector<PrefixMemory::Match> warm = {};  // who has read a beginning of the prompt, the longest first
  size_t prompt_tokens = 0;
  std::string affinity = {};  // such as a session's name
};

// The index of the worker for a request, of those that are ready and fit; none if there is none:
//   the one that read the longest beginning of the prompt, unless another is less busy by more than that is
//   worth;
//   else the one of its affinity, if it has one, while that is busier than the least busy by less than
//   kAffinityWorth: every gateway knows the same one (rendezvous hashing);
//   else the one with the least load; among equals `turn` takes them in rotation.
// Those that fail (breaker) come after all others.
std::optional<size_t> Route(std::span<const WorkerSnapshot> workers, const RouteWish& wish, uint64_t turn);

// Likewise of those that answer as `like` does and whose addresses are not in `excluded`: who can go on with
// an answer.
std::optional<size_t> RouteSuccessor(std::span<const WorkerSnapshot> workers, const v1::ModelInfo& like,
                                     std::span<const std::string> excluded, uint64_t turn);

}  // namespace clamor
