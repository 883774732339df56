// Connections to a Redis, as many as there are callers at once, and what is done while it does not answer.
//
// After a failure nobody tries again before a pause has passed, 50 ms at first and 1 s at most, a part of it
// by chance. Callers that may wait do so until an outage has lasted for `patience`; in a longer one they fail
// at once, and one of them tries now and then. Threads: all methods, any thread. Tested by
// tests/services/session/redis_outage_test.cc.
#pragma once

#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/session/redis_connection.h"

namespace clamor {

class RedisPool {
 public:
  RedisPool(const RedisOptions& options, absl::Duration patience) : options_(options), patience_(patience) {}

  enum class Outage { kWaitOut, kFail };

  // A command that may be made twice. UNAVAILABLE "[STORE_UNAVAILABLE]" if no answer came. `tries`, if given,
  // gets how often it was sent.
  absl::StatusOr<RedisReply> Call(std::span<const std::string> words, Outage outage = Outage::kWaitOut,
                                  int* tries = nullptr);

 private:
  struct Taken {
    std::unique_ptr<RedisConnection> connection;
    bool used;  // before: it may have gone stale
  };
  absl::StatusOr<Taken> Take(Outage outage);
  void GiveBack(std::unique_ptr<RedisConnection> connection);
  void Failed(const absl::Status& why) ABSL_LOCKS_EXCLUDED(mu_);

  const RedisOptions options_;
  const absl::Duration patience_;

  absl::Mutex mu_;
  absl::CondVar changed_;
  std::vector<std::unique_ptr<RedisConnection>> idle_ ABSL_GUARDED_BY(mu_);
  bool trying_ ABSL_GUARDED_BY(mu_) = false;                               // somebody connects, in an outage
  absl::Time outage_since_ ABSL_GUARDED_BY(mu_) = absl::InfiniteFuture();  // none now
  absl::Time next_try_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  absl::Duration pause_ ABSL_GUARDED_BY(mu_);
  absl::Status why_ ABSL_GUARDED_BY(mu_);  // the outage
  std::minstd_rand chance_ ABSL_GUARDED_BY(mu_){std::random_device()()};
};

}  // namespace clamor
