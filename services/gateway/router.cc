#include "services/gateway/router.h"

#include <algorithm>
#include <vector>

namespace clamor {

double RelativeLoad(const WorkerSnapshot& worker) {
  const int polled = static_cast<int>(worker.load.running() + worker.load.waiting());
  const int from_others = std::max(0, polled - worker.streams_at_poll);
  return static_cast<double>(from_others + worker.streams) / std::max(1u, worker.load.max_running());
}

namespace {

// The same in every process; ranks workers for an affinity.
uint64_t Rank(std::string_view affinity, std::string_view worker) {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const std::string_view part : {affinity, std::string_view("\0", 1), worker}) {
    for (const char c : part) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  }
  hash ^= hash >> 32;  // its low bits alone would depend on the last characters only
  hash *= 0xd6e8feb86659fd93;
  return hash ^ hash >> 32;
}

// `fits` is asked of workers that are ready.
template <class Fits>
std::optional<size_t> LeastLoaded(std::span<const WorkerSnapshot> workers, uint64_t turn, Fits fits) {
  std::vector<size_t> best;
  double least = 0;
  for (size_t i = 0; i < workers.size(); ++i) {
    const WorkerSnapshot& worker = workers[i];
    if (worker.state != v1::WORKER_STATE_READY || worker.model == nullptr || !fits(worker)) continue;
    const double load = RelativeLoad(worker);
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

std::optional<size_t> Route(std::span<const WorkerSnapshot> workers, const std::string& model, uint64_t turn,
                            std::string_view affinity) {
  const auto fits = [&model](const WorkerSnapshot& worker) { return worker.model->info().name() == model; };
  const std::optional<size_t> least = LeastLoaded(workers, turn, fits);
  if (!least || affinity.empty()) return least;
  const double most = RelativeLoad(workers[*least]) + kAffinityWorth;
  std::optional<size_t> best;
  for (size_t i = 0; i < workers.size(); ++i) {
    const WorkerSnapshot& worker = workers[i];
    if (worker.state != v1::WORKER_STATE_READY || worker.model == nullptr || !fits(worker)) continue;
    if (i != *least && RelativeLoad(worker) >= most) continue;
    if (!best || Rank(affinity, worker.address) > Rank(affinity, workers[*best].address)) best = i;
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
