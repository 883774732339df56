#include "services/gateway/worker_call.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "services/rpc_error.h"

namespace clamor {

WorkerCall::WorkerCall(WorkerLease lease, v1::WorkerServiceStreamGenerateRequest request, absl::Time deadline,
                       GenerationListener* listener)
    : lease_(std::move(lease)),
      request_(std::move(request)),
      listener_(listener),
      next_token_index_(static_cast<uint64_t>(request_.emitted_ids_size())) {
  context_.set_deadline(absl::ToChronoTime(deadline));
}

void WorkerCall::Start() {
  lease_.worker().stub().async()->StreamGenerate(&context_, &request_, this);
  StartRead(&response_);
  StartCall();
}

void WorkerCall::Cancel(absl::Status why) {
  absl::MutexLock lock(&mu_);
  if (!cancelled_.ok()) return;
  cancelled_ = std::move(why);
  context_.TryCancel();
}

void WorkerCall::OnReadDone(bool ok) {
  if (!ok) return;
  if (absl::Status status = Accept(); !status.ok()) {
    Cancel(std::move(status));
    return;
  }
  response_.Clear();
  StartRead(&response_);
}

absl::Status WorkerCall::Accept() {
  using Response = v1::WorkerServiceStreamGenerateResponse;
  const bool in_order = finished_ ? false : started_ != (response_.event_case() == Response::kStarted);
  if (!in_order || response_.event_case() == Response::EVENT_NOT_SET) {
    return absl::InternalError(absl::StrCat("worker ", lease_.worker().address(), " sent event ",
                                            static_cast<int>(response_.event_case()), " out of order"));
  }
  switch (response_.event_case()) {
    case Response::kStarted:
      started_ = true;
      listener_->OnStarted(std::move(*response_.mutable_started()));
      break;
    case Response::kDelta: {
      v1::Delta& delta = *response_.mutable_delta();
      if (delta.first_token_index() != next_token_index_) {
        return absl::InternalError(absl::StrCat("worker ", lease_.worker().address(),
                                                " sent tokens from index ", delta.first_token_index(),
                                                ", expected ", next_token_index_));
      }
      next_token_index_ += static_cast<uint64_t>(delta.token_ids_size());
      listener_->OnDelta(std::move(delta));
      break;
    }
    default:
      finished_ = true;
      listener_->OnFinished(std::move(*response_.mutable_finished()));
  }
  return absl::OkStatus();
}

absl::Status WorkerCall::EndStatus(const grpc::Status& status) {
  {
    absl::MutexLock lock(&mu_);
    if (!cancelled_.ok()) return cancelled_;
  }
  if (status.ok() && finished_) return absl::OkStatus();
  if (status.ok()) {
    return absl::InternalError(
        absl::StrCat("worker ", lease_.worker().address(), " ended a stream without Finished"));
  }
  absl::Status error = FromGrpc(status);
  // Without a reason these are gRPC's own: the connection broke, or the worker stopped and cut its streams.
  if ((absl::IsUnavailable(error) || absl::IsCancelled(error)) && ReasonOf(error).empty()) {
    lease_.worker().ReportLost();
    return Refusal("NO_WORKER",
                   absl::StrCat("worker ", lease_.worker().address(), " went away: ", MessageOf(error)));
  }
  return error;
}

void WorkerCall::OnDone(const grpc::Status& status) { listener_->OnEnded(EndStatus(status)); }

}  // namespace clamor
