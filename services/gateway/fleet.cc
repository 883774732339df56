#include "services/gateway/fleet.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/gateway/router.h"
#include "services/rpc_error.h"

namespace clamor {

Fleet::Fleet(const std::vector<std::string>& addresses) {
  for (const std::string& address : addresses) workers_.push_back(std::make_unique<WorkerChannel>(address));
}

Fleet::~Fleet() {
  absl::MutexLock lock(&ready_mu_);
  on_ready_ = nullptr;
}

void Fleet::Connect(std::function<void(bool)> on_ready) {
  {
    absl::MutexLock lock(&ready_mu_);
    on_ready_ = std::move(on_ready);
  }
  ReportReady();
  for (const auto& worker : workers_) worker->Connect([this] { ReportReady(); });
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

absl::StatusOr<WorkerLease> Fleet::Acquire(const std::string& model) {
  const std::vector<WorkerSnapshot> snapshots = Snapshots();
  const auto index = Route(snapshots, model, turn_++);
  if (!index) return Refusal("NO_WORKER", absl::StrCat("no worker of model \"", model, "\" is ready"));
  return WorkerLease(workers_[*index].get());
}

std::vector<WorkerSnapshot> Fleet::Snapshots() const {
  std::vector<WorkerSnapshot> snapshots;
  for (const auto& worker : workers_) snapshots.push_back(worker->Snapshot());
  return snapshots;
}

void Fleet::ReportReady() {
  absl::MutexLock lock(&ready_mu_);
  if (on_ready_ == nullptr) return;
  const auto snapshots = Snapshots();
  on_ready_(std::any_of(snapshots.begin(), snapshots.end(),
                        [](const WorkerSnapshot& worker) { return worker.state == v1::WORKER_STATE_READY; }));
}

}  // namespace clamor
