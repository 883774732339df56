// The store of sessions and the threads that wait for it, so that no thread of gRPC does.
//
// Threads: all methods, any thread. Tested by tests/services/session/session_keeper_test.cc.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/session/session_store.h"

namespace clamor {

struct KeeperOptions {
  StoreOptions store;                                 // no location: nothing is kept
  absl::Duration session_ttl = absl::Hours(24 * 30);  // of sessions that do not say
  absl::Duration stream_ttl = absl::Hours(1);         // after its start a stream may be resumed; zero: never
  size_t threads = 8;       // so many changes may share one sync, so many connections go to Redis
  size_t max_tasks = 1024;  // that wait for a thread
};

class SessionKeeper {
 public:
  static absl::StatusOr<std::unique_ptr<SessionKeeper>> Open(const KeeperOptions& options);
  SessionKeeper(std::unique_ptr<SessionStore> store, const KeeperOptions& options);
  // What waits is still done.
  ~SessionKeeper();

  // Does `task` on one of the threads, in which store() may be waited for. UNAVAILABLE "[STORE_UNAVAILABLE]"
  // if too many wait: it is not done then.
  absl::Status Run(std::function<void()> task);

  SessionStore& store() { return *store_; }
  const KeeperOptions& options() const { return options_; }

 private:
  void Work();

  const KeeperOptions options_;
  const std::unique_ptr<SessionStore> store_;

  absl::Mutex mu_;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;

  std::vector<std::thread> threads_;  // last: run Work over all of the above
};

}  // namespace clamor
