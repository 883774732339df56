#include "services/gateway/router.h"

#include <algorithm>
#include <vector>

namespace clamor {

double RelativeLoad(const WorkerSnapshot& worker) {
  const int polled = static_cast<int>(worker.load.running() + worker.load.waiting());
  const int from_others = std::max(0, polled - worker.streams_at_poll);
  return static_cast<double>(from_others + worker.streams) / std::max(1u, worker.load.max_running());
}

std::optional<size_t> Route(std::span<const WorkerSnapshot> workers, const std::string& model,
                            uint64_t turn) {
  std::vector<size_t> best;
  double least = 0;
  for (size_t i = 0; i < workers.size(); ++i) {
    const WorkerSnapshot& worker = workers[i];
    if (worker.state != v1::WORKER_STATE_READY || worker.model == nullptr ||
        worker.model->info().name() != model)
      continue;
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

}  // namespace clamor
