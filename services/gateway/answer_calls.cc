#include "services/gateway/answer_calls.h"

#include <algorithm>
#include <cstdint>
#include <utility>

namespace clamor {

class AnswerCalls::Answer final : private GenerationListener {
 public:
  Answer(AnswerCalls* all, uint32_t index, WorkerLease lease, v1::WorkerServiceStreamGenerateRequest request,
         absl::Time deadline)
      : all_(*all), index_(index), call_(std::move(lease), std::move(request), deadline, this) {}

  WorkerCall& call() { return call_; }

 private:
  void OnStarted(v1::Started started) override {
    started.set_choice(index_);
    absl::MutexLock lock(&all_.listening_);
    all_.listener_->OnStarted(std::move(started));
  }

  void OnDelta(v1::Delta delta) override {
    delta.set_choice(index_);
    {
      absl::MutexLock lock(&all_.listening_);
      all_.listener_->OnDelta(std::move(delta));
    }
    if (index_ == 0) all_.StartRest();
  }

  void OnFinished(v1::Finished finished) override {
    finished.set_choice(index_);
    {
      absl::MutexLock lock(&all_.listening_);
      all_.listener_->OnFinished(std::move(finished));
    }
    if (index_ == 0) all_.StartRest();
  }

  void OnEnded(const absl::Status& status) override { all_.End(status); }

  AnswerCalls& all_;
  const uint32_t index_;
  WorkerCall call_;
};

AnswerCalls::AnswerCalls(WorkerLease lease, v1::WorkerServiceStreamGenerateRequest request,
                         absl::Time deadline, GenerationListener* listener)
    : listener_(listener) {
  const uint32_t count = std::max<uint32_t>(1, request.options().n());
  const uint64_t seed = request.options().sampling().seed();
  for (uint32_t i = 0; i < count; ++i) {
    v1::WorkerServiceStreamGenerateRequest one = request;
    if (i > 0) one.mutable_options()->mutable_sampling()->set_seed(seed + i);
    WorkerLease own = i + 1 < count ? WorkerLease(&lease.worker()) : std::move(lease);
    answers_.push_back(std::make_unique<Answer>(this, i, std::move(own), std::move(one), deadline));
  }
}

AnswerCalls::~AnswerCalls() = default;

void AnswerCalls::Start() {
  {
    absl::MutexLock lock(&mu_);
    started_ = 1;
  }
  answers_.front()->call().Start();
}

void AnswerCalls::StartRest() {
  {
    absl::MutexLock lock(&mu_);
    if (stopped_ || started_ == answers_.size()) return;
    started_ = answers_.size();
  }
  for (size_t i = 1; i < answers_.size(); ++i) answers_[i]->call().Start();
}

void AnswerCalls::Cancel(const absl::Status& why) {
  absl::MutexLock lock(&mu_);
  CancelStarted(why);
}

void AnswerCalls::CancelStarted(const absl::Status& why) {
  stopped_ = true;
  if (status_.ok()) status_ = why;
  for (size_t i = 0; i < started_; ++i) answers_[i]->call().Cancel(why);
}

void AnswerCalls::End(const absl::Status& status) {
  absl::Status all;
  {
    absl::MutexLock lock(&mu_);
    if (!status.ok() && status_.ok()) CancelStarted(status);
    if (++ended_ < started_) return;
    all = status_;
  }
  listener_->OnEnded(all);  // which may end this
}

const v1::WorkerServiceStreamGenerateRequest& AnswerCalls::request() const {
  return answers_.front()->call().request();
}

}  // namespace clamor
