#include "services/gateway/router.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace clamor {

double RelativeLoad(const WorkerSnapshot& worker) {
  const int polled = static_cast<int>(worker.load.running() + worker.load.waiting());
  const int from_others = std::max(0, polled - worker.streams_at_poll);
  return static_cast<double>(from_others + worker.streams) / std::max(1u, worker.load.max_running());
}

namespace {

// The same in every process; ranks workers for an affinity.
uint64_t PlaceOf(std::string_view affinity, std::string_view worker) {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const std::string_view part : {affinity, std::string_view("\0", 1), worker}) {
    for (const char c : part) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  }
  hash ^= hash >> 32;  // its low bits alone would depend on the last characters only
  hash *= 0xd6e8feb86659fd93;
  return hash ^ hash >> 32;
}

bool IsReady(const WorkerSnapshot& worker) {
  return worker.state == v1::WORKER_STATE_READY && worker.model != nullptr;
}

// `fits` is asked of workers that are ready. One that fails gets requests only where all do.
template <class Fits>
std::optional<size_t> LeastLoaded(std::span<const WorkerSnapshot> workers, uint64_t turn, Fits fits) {
  std::vector<size_t> best;
  std::pair<bool, double> least;
  for (size_t i = 0; i < workers.size(); ++i) {
    const WorkerSnapshot& worker = workers[i];
    if (!IsReady(worker) || !fits(worker)) continue;
    const std::pair<bool, double> load = {worker.breaker_open, RelativeLoad(worker)};
    if (best.empty() || load < least) {
      best.clear();
      least = load;
    }
    if (load == least) best.push_back(i);
  }
  if (best.empty()) return std::nullopt;
  return best[turn % best.size()];
}

}  // namespace

std::optional<size_t> Route(std::span<const WorkerSnapshot> workers, const RouteWish& wish, uint64_t turn) {
  const auto fits = [&wish](const WorkerSnapshot& worker) {
    const v1::ModelInfo& info = worker.model->info();
    return info.name() == wish.model && (wish.like == nullptr || AnswerAlike(info, *wish.like)) &&
           (wish.tokenizer.empty() || info.tokenizer_fingerprint() == wish.tokenizer);
  };
  const std::optional<size_t> least = LeastLoaded(workers, turn, fits);
  if (!least) return std::nullopt;
  const double least_load = RelativeLoad(workers[*least]);
  for (const PrefixMemory::Match& match : wish.warm) {
    const auto it = std::find_if(workers.begin(), workers.end(), [&](const WorkerSnapshot& worker) {
      return worker.address == match.worker && IsReady(worker) && !worker.breaker_open && fits(worker);
    });
    if (it == workers.end()) continue;
    const double worth = kAffinityWorth * static_cast<double>(match.tokens) /
                         static_cast<double>(std::max<size_t>(1, wish.prompt_tokens));
    if (RelativeLoad(*it) <= least_load + worth) return it - workers.begin();
  }
  if (wish.affinity.empty()) return least;
  std::optional<size_t> best;
  for (size_t i = 0; i < workers.size(); ++i) {
    const WorkerSnapshot& worker = workers[i];
    if (!IsReady(worker) || !fits(worker)) continue;
    if (i != *least && (worker.breaker_open || RelativeLoad(worker) >= least_load + kAffinityWorth)) continue;
    if (!best || PlaceOf(wish.affinity, worker.address) > PlaceOf(wish.affinity, workers[*best].address))
      best = i;
  }
  return best;
}

std::optional<size_t> RouteSuccessor(std::span<const WorkerSnapshot> workers, const v1::ModelInfo& like,
                                     std::span<const std::string> excluded, uint64_t turn) {
  return LeastLoaded(workers, turn, [&](const WorkerSnapshot& worker) {
    return AnswerAlike(worker.model->info(), like) &&
           std::find(excluded.begin(), excluded.end(), worker.address) == excluded.end();
  });
}

}  // namespace clamor
