#include "services/session/session_keeper.h"

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "services/rpc_error.h"

namespace clamor {

absl::StatusOr<std::unique_ptr<SessionKeeper>> SessionKeeper::Open(const KeeperOptions& options) {
  CLAMOR_ASSIGN_OR_RETURN(std::unique_ptr<SessionStore> store, OpenSessionStore(options.store));
  return std::make_unique<SessionKeeper>(std::move(store), options);
}

SessionKeeper::SessionKeeper(std::unique_ptr<SessionStore> store, const KeeperOptions& options)
    : options_(options), store_(std::move(store)) {
  for (size_t i = 0; i < options_.threads; ++i) threads_.emplace_back([this] { Work(); });
}

SessionKeeper::~SessionKeeper() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  for (std::thread& thread : threads_) thread.join();
}

absl::Status SessionKeeper::Run(std::function<void()> task) {
  absl::MutexLock lock(&mu_);
  if (tasks_.size() >= options_.max_tasks) {
    return Refusal("STORE_UNAVAILABLE",
                   absl::StrCat(tasks_.size(), " calls wait for the store, limit ", options_.max_tasks));
  }
  tasks_.push_back(std::move(task));
  return absl::OkStatus();
}

void SessionKeeper::Work() {
  const auto something = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return stopping_ || !tasks_.empty(); };
  while (true) {
    std::function<void()> task;
    {
      absl::MutexLock lock(&mu_, absl::Condition(&something));
      if (tasks_.empty()) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

}  // namespace clamor
