#include "services/gateway/answer_calls.h"

#include <cstdint>
#include <utility>

namespace clamor {

class AnswerCalls::Answer final : private GenerationListener {
 public:
  Answer(AnswerCalls* all, uint32_t index, WorkerLease lease)
      : all_(*all),
        index_(index),
        call_(all->context_, std::move(lease), RequestOf(all->request_, index), this) {}

  AnswerCall& call() { return call_; }

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

  static v1::WorkerServiceStreamGenerateRequest RequestOf(v1::WorkerServiceStreamGenerateRequest request,
                                                          uint32_t index) {
    if (index == 0) return request;
    v1::SamplingParameters& sampling = *request.mutable_options()->mutable_sampling();
    sampling.set_seed(sampling.seed() + index);
    request.set_follows(true);
    return request;
  }

  AnswerCalls& all_;
  const uint32_t index_;
  AnswerCall call_;
};

AnswerCalls::AnswerCalls(const CallContext& context, WorkerLease lease,
                         v1::WorkerServiceStreamGenerateRequest request, GenerationListener* listener)
    : context_(context),
      request_(std::move(request)),
      listener_(listener),
      first_(std::make_unique<Answer>(this, 0, std::move(lease))) {}

AnswerCalls::~AnswerCalls() = default;

void AnswerCalls::Start() { first_->call().Start(); }

void AnswerCalls::StartRest() {
  std::vector<AnswerCall*> calls;
  {
    absl::MutexLock lock(&mu_);
    if (stopped_) return;
    for (uint32_t i = static_cast<uint32_t>(rest_.size()) + 1; i < AnswersOf(request_); ++i) {
      rest_.push_back(std::make_unique<Answer>(this, i, WorkerLease(&first_->call().worker())));
      calls.push_back(&rest_.back()->call());
    }
  }
  for (AnswerCall* call : calls) call->Start();
}

void AnswerCalls::Cancel(const absl::Status& why) {
  absl::MutexLock lock(&mu_);
  Stop(why);
}

void AnswerCalls::Stop(const absl::Status& why) {
  stopped_ = true;
  if (status_.ok()) status_ = why;
  first_->call().Cancel(why);
  for (const auto& answer : rest_) answer->call().Cancel(why);
}

void AnswerCalls::End(const absl::Status& status) {
  absl::Status all;
  {
    absl::MutexLock lock(&mu_);
    if (!status.ok() && status_.ok()) Stop(status);
    if (++ended_ <= rest_.size()) return;
    all = status_;
  }
  listener_->OnEnded(all);  // which may end this
}

}  // namespace clamor
