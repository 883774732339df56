#include "services/session/redis_pool.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/status_macros.h"
#include "services/log.h"
#include "services/rpc_error.h"

namespace clamor {
namespace {

constexpr absl::Duration kShortestPause = absl::Milliseconds(50), kLongestPause = absl::Seconds(1);

}  // namespace

absl::StatusOr<RedisReply> RedisPool::Call(std::span<const std::string> words, Outage outage, int* tries) {
  int sent = 0;
  while (true) {
    CLAMOR_ASSIGN_OR_RETURN(Taken taken, Take(outage));
    if (tries != nullptr) *tries = ++sent;
    auto reply = taken.connection->Command(words);
    if (!absl::IsUnavailable(reply.status())) {
      GiveBack(std::move(taken.connection));
      return reply;
    }
    if (!taken.used) {
      Failed(reply.status());
      continue;
    }
    absl::MutexLock lock(&mu_);
    idle_.clear();  // no older, no fresher than this one
  }
}

absl::StatusOr<RedisPool::Taken> RedisPool::Take(Outage outage) {
  absl::MutexLock lock(&mu_);
  while (true) {
    if (!idle_.empty()) {
      Taken taken{std::move(idle_.back()), true};
      idle_.pop_back();
      return taken;
    }
    const bool down = outage_since_ < absl::InfiniteFuture();
    if (absl::Now() >= next_try_ && !(down && trying_)) {
      trying_ = down;
      mu_.Unlock();
      auto connection = RedisConnection::Connect(options_);
      if (!connection.ok()) Failed(connection.status());
      mu_.Lock();
      trying_ = trying_ && !down;
      changed_.SignalAll();
      if (connection.ok()) return Taken{*std::move(connection), false};
      continue;
    }
    const absl::Time give_up = outage_since_ + patience_;
    if (outage == Outage::kFail || absl::Now() >= give_up)
      return Refusal("STORE_UNAVAILABLE", absl::StrCat("the store does not answer: ", why_.message()));
    changed_.WaitWithDeadline(&mu_, trying_ ? give_up : std::min(next_try_, give_up));
  }
}

void RedisPool::GiveBack(std::unique_ptr<RedisConnection> connection) {
  absl::MutexLock lock(&mu_);
  idle_.push_back(std::move(connection));
  if (outage_since_ == absl::InfiniteFuture()) return;
  spdlog::info("event=session_store_back seconds={:.3f}", absl::ToDoubleSeconds(absl::Now() - outage_since_));
  outage_since_ = absl::InfiniteFuture();
  next_try_ = absl::InfinitePast();
  why_ = absl::OkStatus();
  changed_.SignalAll();
}

void RedisPool::Failed(const absl::Status& why) {
  absl::MutexLock lock(&mu_);
  const absl::Time now = absl::Now();
  if (outage_since_ == absl::InfiniteFuture()) {
    spdlog::warn("event=session_store_lost error=\"{}\"", std::string(why.message()));
    outage_since_ = now;
    pause_ = kShortestPause;
  } else if (now >= next_try_) {  // several that began together are one failure
    pause_ = std::min(pause_ * 2, kLongestPause);
  }
  why_ = why;
  next_try_ = now + pause_ * std::uniform_real_distribution<double>(0.5, 1)(chance_);
}

}  // namespace clamor
