#include "services/gateway/fleet.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/gateway/router.h"
#include "services/log.h"
#include "services/rpc_error.h"

namespace clamor {
namespace {

absl::Status NoneLike(const v1::ModelInfo& like) {
  return Refusal("NO_COMPATIBLE_WORKER", absl::StrCat("no worker of model \"", like.name(), "\", revision ",
                                                      like.revision(), ", is ready"));
}

}  // namespace

Fleet::Fleet(const std::vector<std::string>& addresses, const FleetOptions& options)
    : options_(options),
      credentials_(ChannelCredentialsOf(options.tls)),
      successors_([this](const auto& wanted) { return FindSuccessor(wanted); }) {
  std::vector<WorkerAddress> workers;
  for (const std::string& address : addresses) workers.push_back({.address = address});
  SetWorkers(std::move(workers));
}

Fleet::~Fleet() {
  {
    absl::MutexLock lock(&ready_mu_);
    on_ready_ = nullptr;
  }
  std::vector<std::unique_ptr<WorkerChannel>> workers, leaving;
  {
    absl::MutexLock lock(&workers_mu_);
    workers.swap(workers_);
    leaving.swap(leaving_);
  }
  workers.clear();  // while what they report changes to is still there
}

void Fleet::Connect(std::function<void(bool)> on_ready) {
  {
    absl::MutexLock lock(&ready_mu_);
    on_ready_ = std::move(on_ready);
  }
  {
    absl::MutexLock lock(&workers_mu_);
    connected_ = true;
    for (const auto& worker : workers_) worker->Connect([this] { OnChange(); });
  }
  OnChange();
}

void Fleet::SetWorkers(std::vector<WorkerAddress> addresses) {
  std::vector<WorkerChannel*> left;
  std::vector<std::unique_ptr<WorkerChannel>> gone;
  bool changed = false;
  {
    absl::MutexLock lock(&workers_mu_);
    const auto leaves = std::stable_partition(workers_.begin(), workers_.end(), [&](const auto& worker) {
      return std::find(addresses.begin(), addresses.end(), worker->where()) != addresses.end();
    });
    for (auto it = leaves; it != workers_.end(); ++it) {
      left.push_back(it->get());
      leaving_.push_back(std::move(*it));
    }
    workers_.erase(leaves, workers_.end());
    for (WorkerAddress& where : addresses) {
      const bool known = std::any_of(workers_.begin(), workers_.end(),
                                     [&](const auto& worker) { return worker->where() == where; });
      if (known) continue;
      spdlog::info("event=worker_added worker={}", where.address);
      workers_.push_back(
          std::make_unique<WorkerChannel>(std::move(where), options_.hang_after, credentials_));
      if (connected_) workers_.back()->Connect([this] { OnChange(); });
      changed = true;
    }
  }
  // The leases of a worker that leaves keep it: only what has none goes.
  for (WorkerChannel* worker : left) {
    spdlog::info("event=worker_removed worker={}", worker->address());
    worker->SetHold(Hold::kDrained);
    absl::MutexLock lock(&prefixes_mu_);
    prefixes_.ForgetWorker(worker->address());
  }
  {
    absl::MutexLock lock(&workers_mu_);
    const auto idle = std::stable_partition(
        leaving_.begin(), leaving_.end(), [](const auto& worker) { return worker->Snapshot().streams > 0; });
    std::move(idle, leaving_.end(), std::back_inserter(gone));
    leaving_.erase(idle, leaving_.end());
  }
  if (changed || !left.empty()) OnChange();
}

// The lease keeps the worker while its change is reported, which takes the lock.
absl::Status Fleet::SetHold(const std::string& address, Hold hold) {
  std::optional<WorkerLease> lease;
  {
    absl::ReaderMutexLock lock(&workers_mu_);
    const auto it = std::find_if(workers_.begin(), workers_.end(),
                                 [&](const auto& worker) { return worker->address() == address; });
    if (it == workers_.end()) return absl::NotFoundError(absl::StrCat("no worker is at \"", address, "\""));
    lease.emplace(it->get());
  }
  lease->worker().SetHold(hold);
  return absl::OkStatus();
}

void Fleet::ForEach(const std::function<void(WorkerChannel&)>& use) const {
  absl::ReaderMutexLock lock(&workers_mu_);
  for (const auto& worker : workers_) use(*worker);
  for (const auto& worker : leaving_) use(*worker);
}

void Fleet::ForgetTenant(const std::string& tenant) {
  absl::MutexLock lock(&prefixes_mu_);
  prefixes_.ForgetTenant(tenant);
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

absl::StatusOr<WorkerLease> Fleet::Acquire(const WorkerWanted& wanted) {
  RouteWish wish{.model = wanted.model,
                 .tokenizer = wanted.tokenizer,
                 .like = wanted.like,
                 .prompt_tokens = wanted.prompt.size(),
                 .affinity = wanted.affinity};
  if (wanted.prompt.size() >= PrefixMemory::kBlock) {
    absl::MutexLock lock(&prefixes_mu_);
    wish.warm = prefixes_.Find(wanted.tenant, wanted.prompt);
  }
  std::optional<WorkerLease> lease;
  {
    absl::ReaderMutexLock lock(&workers_mu_);  // until the lease keeps it
    // A call without a prompt only asks whether there is a worker: it is nobody's turn.
    const uint64_t turn = wanted.prompt.empty() ? turn_.load() : turn_++;
    const auto index = Route(SnapshotsOfWorkers(), wish, turn);
    if (index) lease.emplace(workers_[*index].get());
  }
  if (!lease && wanted.like != nullptr) return NoneLike(*wanted.like);
  if (!lease) return Refusal("NO_WORKER", absl::StrCat("no worker of model \"", wanted.model, "\" is ready"));
  if (wanted.prompt.size() >= PrefixMemory::kBlock) {
    absl::MutexLock lock(&prefixes_mu_);
    prefixes_.Add(wanted.tenant, wanted.prompt, lease->worker().address());
  }
  return *std::move(lease);
}

absl::StatusOr<WorkerLease> Fleet::AcquireLike(const v1::ModelInfo& like) {
  if (std::optional<WorkerLease> lease = FindSuccessor({.like = like})) return *std::move(lease);
  return NoneLike(like);
}

std::vector<WorkerSnapshot> Fleet::Snapshots() const {
  absl::ReaderMutexLock lock(&workers_mu_);
  return SnapshotsOfWorkers();
}

std::vector<WorkerSnapshot> Fleet::SnapshotsOfWorkers() const {
  std::vector<WorkerSnapshot> snapshots;
  for (const auto& worker : workers_) snapshots.push_back(worker->Snapshot());
  return snapshots;
}

std::optional<WorkerLease> Fleet::FindSuccessor(const SuccessorSearch::Wanted& wanted) {
  absl::ReaderMutexLock lock(&workers_mu_);
  const auto index = RouteSuccessor(SnapshotsOfWorkers(), wanted.like, wanted.excluded, turn_++);
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
  RelieveDraining();
}

// Streams leave a worker that drains as soon as another can go on with them; else it finishes them itself.
void Fleet::RelieveDraining() {
  absl::ReaderMutexLock lock(&workers_mu_);
  const std::vector<WorkerSnapshot> snapshots = SnapshotsOfWorkers();
  const auto relieve = [&snapshots](WorkerChannel& worker, const WorkerSnapshot& snapshot) {
    if (snapshot.state != v1::WORKER_STATE_DRAINING || snapshot.cordoned || snapshot.model == nullptr) return;
    if (RouteSuccessor(snapshots, snapshot.model->info(), {}, 0)) worker.SendAway(Loss::kDrained);
  };
  for (size_t i = 0; i < snapshots.size(); ++i) relieve(*workers_[i], snapshots[i]);
  for (const auto& worker : leaving_) relieve(*worker, worker->Snapshot());
}

}  // namespace clamor
