#include "services/gateway/answer_calls.h"

#include <cstdint>
#include <utility>

#include "services/gateway/admission.h"
#include "services/gateway/tenant_usage.h"

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
      absl::MutexLock lock(&all_.mu_);
      all_.tokens_ += static_cast<uint64_t>(delta.token_ids_size());
    }
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
      model_(lease.model()),
      ticket_(context.admission == nullptr ? 0 : context.admission->NewTicket()) {}

AnswerCalls::~AnswerCalls() = default;

void AnswerCalls::Start() {
  if (context_.admission == nullptr) return Begin();
  admission_ = context_.trace.Start("admission");
  absl::StatusOr<bool> runs;
  {
    absl::MutexLock lock(&mu_);  // Cancel comes before or finds the ticket
    if (!status_.ok()) {
      runs = status_;
    } else {
      runs = context_.admission->Enter(
          ticket_, model_->info().name(), request_, context_.deadline,
          [this](const absl::Status& status) { status.ok() ? Begin() : EndUnbegun(status); });
    }
  }
  if (!runs.ok()) return EndUnbegun(runs.status());
  if (*runs) Begin();  // else this may be gone by now
}

// A worker is chosen now, after whatever waiting there was.
void AnswerCalls::Begin() {
  admission_.End();
  Span route = context_.trace.Start("route");
  absl::StatusOr<WorkerLease> lease = context_.fleet->Acquire(
      {.model = model_->info().name(),
       .tokenizer = model_->info().tokenizer_fingerprint(),
       .tenant = request_.tenant(),
       .prompt = {request_.prompt_ids().data(), static_cast<size_t>(request_.prompt_ids_size())},
       .like = context_.revision.empty() ? nullptr : &model_->info(),
       .affinity = context_.affinity});
  absl::Status status = lease.status();
  lease.ok() ? route.Set("server.address", lease->worker().address()) : route.Fail(status);
  route.End();
  {
    absl::MutexLock lock(&mu_);
    if (!status_.ok()) status = status_;
    if (status.ok()) first_ = std::make_unique<Answer>(this, 0, *std::move(lease));
  }
  if (status.ok()) return first_->call().Start();
  Leave();
  EndUnbegun(status);
}

// The first reason counts: why it was given up, if it was.
void AnswerCalls::EndUnbegun(const absl::Status& status) {
  absl::Status end;
  {
    absl::MutexLock lock(&mu_);
    end = status_.ok() ? status : status_;
  }
  admission_.Fail(end);
  admission_.End();
  listener_->OnEnded(end);  // which may end this
}

void AnswerCalls::Leave() {
  uint64_t tokens = 0;
  {
    absl::MutexLock lock(&mu_);
    tokens = tokens_;
  }
  const auto prompt = static_cast<uint64_t>(request_.prompt_ids_size());
  if (context_.admission != nullptr) {
    context_.admission->Leave(ticket_, tokens == 0 ? 0 : static_cast<int64_t>(prompt + tokens));
  }
  if (context_.usage != nullptr) context_.usage->Add(request_.tenant(), tokens == 0 ? 0 : prompt, tokens);
}

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
  if (first_ == nullptr) {
    if (context_.admission != nullptr) context_.admission->GiveUp(ticket_);
    return;
  }
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
  Leave();
  listener_->OnEnded(all);  // which may end this
}

}  // namespace clamor
