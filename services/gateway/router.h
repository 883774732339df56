// Chooses the worker of a request: a pure function of what is known of the workers.
// Tested by tests/services/gateway/router_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "services/gateway/worker_channel.h"

namespace clamor {

// Requests per slot that `worker` has: those that others sent, as of the last poll, and ours as of now.
double RelativeLoad(const WorkerSnapshot& worker);

// The index of the ready worker of `model` with the least load; among equals `turn` takes them in rotation.
// None if no worker of the model is ready.
//
// Requests of one `affinity`, unless it is empty, go to one worker, which has their prefix, for as long as it
// is busier than the least busy by less than kAffinityWorth: by every gateway to the same (rendezvous
// hashing).
std::optional<size_t> Route(std::span<const WorkerSnapshot> workers, const std::string& model, uint64_t turn,
                            std::string_view affinity = {});

inline constexpr double kAffinityWorth = 0.5;  // requests per slot

// Likewise of those that answer as `like` does and whose addresses are not in `excluded`: who can go on with
// an answer.
std::optional<size_t> RouteSuccessor(std::span<const WorkerSnapshot> workers, const v1::ModelInfo& like,
                                     std::span<const std::string> excluded, uint64_t turn);

}  // namespace clamor
