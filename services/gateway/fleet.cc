#include "services/gateway/fleet.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/gateway/router.h"
#include "services/rpc_error.h"

namespace clamor {

Fleet::Fleet(const std::vector<std::string>& addresses, const FleetOptions& options)
    : options_(options), successors_([this](const auto& wanted) { return FindSuccessor(wanted); }) {
  for (const std::string& address : addresses)
    workers_.push_back(std::make_unique<WorkerChannel>(address, options_.hang_after));
}

Fleet::~Fleet() {
  {
    absl::MutexLock lock(&ready_mu_);
    on_ready_ = nullptr;
  }
  workers_.clear();  // while what they report changes to is still there
}

void Fleet::Connect(std::function<void(bool)> on_ready) {
  {
    absl::MutexLock lock(&ready_mu_);
    on_ready_ = std::move(on_ready);
  }
  OnChange();
  for (const auto& worker : workers_) worker->Connect([this] { OnChange(); });
}

absl::StatusOr<std::shared_ptr<const ServedModel>> Fleet::FindModel(const std::string& name) const {
  std::shared_ptr<const ServedModel> found;
  bool any = false;
  for (WorkerSnapshot& worker : Snapshots()) {
    if (worker.model == nullptr) continue;
    any = true;
    if (!name.empty() && worker.model->info().name() != name) continue;
    if (found != nullptr && found->info().name() != worker.model->info().name()) {
      return InvalidField("model", absl::StrCat("is empty, must name one of several: ", found->info().name(),
                                                ", ", worker.model->info().name()));
    }
    // Of several workers of one model one that is ready speaks for it, since it may have been replaced.
    if (found == nullptr || worker.state == v1::WORKER_STATE_READY) found = std::move(worker.model);
  }
  if (found != nullptr) return found;
  if (!any) return Refusal("NO_WORKER", "no worker has been reached yet");
  return Refusal("MODEL_NOT_FOUND", absl::StrCat("no worker serves model \"", name, "\""));
}

absl::StatusOr<WorkerLease> Fleet::Acquire(const std::string& model, const std::string& affinity) {
  const std::vector<WorkerSnapshot> snapshots = Snapshots();
  const auto index = Route(snapshots, model, turn_++, affinity);
  if (!index) return Refusal("NO_WORKER", absl::StrCat("no worker of model \"", model, "\" is ready"));
  return WorkerLease(workers_[*index].get());
}

absl::StatusOr<WorkerLease> Fleet::AcquireLike(const v1::ModelInfo& like) {
  if (std::optional<WorkerLease> lease = FindSuccessor({.like = like})) return *std::move(lease);
  return Refusal("NO_COMPATIBLE_WORKER", absl::StrCat("no worker of model \"", like.name(), "\", revision ",
                                                      like.revision(), ", is ready"));
}

std::vector<WorkerSnapshot> Fleet::Snapshots() const {
  std::vector<WorkerSnapshot> snapshots;
  for (const auto& worker : workers_) snapshots.push_back(worker->Snapshot());
  return snapshots;
}

std::optional<WorkerLease> Fleet::FindSuccessor(const SuccessorSearch::Wanted& wanted) {
  const auto index = RouteSuccessor(Snapshots(), wanted.like, wanted.excluded, turn_++);
  if (!index) return std::nullopt;
  return WorkerLease(workers_[*index].get());
}

void Fleet::OnChange() {
  absl::MutexLock lock(&ready_mu_);
  if (on_ready_ == nullptr) return;
  const std::vector<WorkerSnapshot> snapshots = Snapshots();
  on_ready_(std::any_of(snapshots.begin(), snapshots.end(),
                        [](const WorkerSnapshot& worker) { return worker.state == v1::WORKER_STATE_READY; }));
  successors_.FleetChanged();
  RelieveDraining(snapshots);
}

// Streams leave a worker that drains as soon as another can go on with them; else it finishes them itself.
void Fleet::RelieveDraining(std::span<const WorkerSnapshot> snapshots) {
  for (size_t i = 0; i < snapshots.size(); ++i) {
    if (snapshots[i].state != v1::WORKER_STATE_DRAINING || snapshots[i].model == nullptr) continue;
    if (RouteSuccessor(snapshots, snapshots[i].model->info(), {}, 0)) workers_[i]->SendAway(Loss::kDrained);
  }
}

}  // namespace clamor
