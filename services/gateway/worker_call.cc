#include "services/gateway/worker_call.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "services/rpc_error.h"

namespace clamor {
namespace {

uint64_t MostTokens(const WorkerLease& lease, int prompt_tokens) {
  const uint64_t context = lease.model()->info().max_context_tokens(),
                 prompt = static_cast<uint64_t>(prompt_tokens);
  return context > prompt ? context - prompt : 0;
}

}  // namespace

WorkerCall::WorkerCall(WorkerLease lease, const v1::WorkerServiceStreamGenerateRequest& request,
                       const AnswerStart& start, const WorkerCallOptions& options,
                       GenerationListener* listener)
    : request_(request),
      revision_(start.revision),
      most_tokens_(MostTokens(lease, request_.prompt_ids_size())),
      listener_(listener),
      span_(options.trace.Start("attempt", Span::Kind::kClient)),
      next_token_index_(static_cast<uint64_t>(request_.emitted_ids_size())),
      next_text_byte_(start.text_bytes),
      lease_(std::move(lease)) {
  context_.set_deadline(absl::ToChronoTime(options.deadline));
  AddTraceContext(span_.context(), &context_);
  span_.Set("server.address", lease_.worker().address());
  span_.Set("clamor.first_token_index", request_.emitted_ids_size());
}

void WorkerCall::Start() {
  lease_.worker().ReportBegin();
  lease_.worker().PrepareGenerate(&context_, this);
  lease_.OnLeave([this](Loss why) { Leave(why); });
  StartWriteLast(&request_, grpc::WriteOptions());
  StartRead(&bytes_);
  StartCall();
}

void WorkerCall::Cancel(absl::Status why) {
  absl::MutexLock lock(&mu_);
  if (!cancelled_.ok()) return;
  cancelled_ = std::move(why);
  context_.TryCancel();
}

void WorkerCall::Leave(Loss why) {
  absl::MutexLock lock(&mu_);
  if (!cancelled_.ok() || left_) return;
  left_ = why;
  context_.TryCancel();
}

bool WorkerCall::over() {
  absl::MutexLock lock(&mu_);
  return !cancelled_.ok() || left_;
}

void WorkerCall::OnReadDone(bool ok) {
  if (!ok || over()) return;
  if (!Parse()) return Leave(Loss::kDamaged);
  lease_.worker().ReportAlive();
  if (absl::Status status = Accept(); !status.ok()) {
    Cancel(std::move(status));
    return;
  }
  StartRead(&bytes_);
}

bool WorkerCall::Parse() {
  using Traits = grpc::SerializationTraits<v1::WorkerServiceStreamGenerateResponse>;
  if (!Traits::Deserialize(&bytes_, &response_).ok()) return false;
  const uint64_t sum = check_.Add(response_);
  checked_ |= response_.has_check();
  return !checked_ || (response_.has_check() && response_.check() == sum);
}

absl::Status WorkerCall::Accept() {
  using Response = v1::WorkerServiceStreamGenerateResponse;
  const bool in_order = finished_ ? false : started_ != (response_.event_case() == Response::kStarted);
  if (!in_order || response_.event_case() == Response::EVENT_NOT_SET) {
    return absl::InternalError(absl::StrCat("worker ", lease_.worker().address(), " sent event ",
                                            static_cast<int>(response_.event_case()), " out of order"));
  }
  switch (response_.event_case()) {
    case Response::kStarted: {
      v1::Started& started = *response_.mutable_started();
      if (!revision_.empty() && started.model_revision() != revision_) {
        return Refusal("NO_COMPATIBLE_WORKER",
                       absl::StrCat("worker ", lease_.worker().address(), " has revision ",
                                    started.model_revision(), ", the answer began with ", revision_));
      }
      started_ = true;
      listener_->OnStarted(std::move(started));
      break;
    }
    case Response::kDelta:
      return AcceptDelta();
    default:
      finished_ = true;
      listener_->OnFinished(std::move(*response_.mutable_finished()));
  }
  return absl::OkStatus();
}

absl::Status WorkerCall::AcceptDelta() {
  v1::Delta& delta = *response_.mutable_delta();
  if (delta.first_token_index() != next_token_index_) {
    return absl::InternalError(absl::StrCat("worker ", lease_.worker().address(), " sent tokens from index ",
                                            delta.first_token_index(), ", expected ", next_token_index_));
  }
  if (delta.has_first_text_byte() && delta.first_text_byte() != next_text_byte_) {
    return absl::InternalError(absl::StrCat("worker ", lease_.worker().address(), " sent text from byte ",
                                            delta.first_text_byte(), ", expected ", next_text_byte_));
  }
  next_token_index_ += static_cast<uint64_t>(delta.token_ids_size());
  next_text_byte_ += delta.text().size();
  if (next_token_index_ > most_tokens_) {
    return absl::InternalError(absl::StrCat("worker ", lease_.worker().address(), " sent ", next_token_index_,
                                            " tokens, the context has room for ", most_tokens_));
  }
  listener_->OnDelta(std::move(delta));
  return absl::OkStatus();
}

absl::Status WorkerCall::EndStatus(const grpc::Status& status) {
  std::optional<Loss> left;
  {
    absl::MutexLock lock(&mu_);
    if (!cancelled_.ok()) return cancelled_;
    left = left_;
  }
  if (status.ok() && !finished_ && !left) {
    return absl::InternalError(
        absl::StrCat("worker ", lease_.worker().address(), " ended a stream without Finished"));
  }
  const absl::Status error = FromGrpc(status);
  const absl::string_view reason = ReasonOf(error);
  // Without a reason these are gRPC's own: the connection broke, or the worker stopped and cut its streams.
  const bool broke = (absl::IsUnavailable(error) || absl::IsCancelled(error)) && reason.empty();
  if (finished_ && (status.ok() || broke || reason == "DRAINING"))
    return absl::OkStatus();  // nothing is missing
  if (left) return Lost(*left, LossName(*left));
  if (broke) {
    lease_.worker().ReportLost();
    const bool draining = lease_.worker().Snapshot().load.draining();
    return Lost(draining ? Loss::kDrained : Loss::kDied, absl::StrCat("went away: ", MessageOf(error)));
  }
  if (reason == "DRAINING") {
    lease_.worker().ReportDraining();
    loss_ = Loss::kDrained;
  }
  return error;
}

absl::Status WorkerCall::Lost(Loss loss, absl::string_view how) {
  loss_ = loss;
  return Refusal("NO_WORKER", absl::StrCat("worker ", lease_.worker().address(), " ", how));
}

void WorkerCall::OnDone(const grpc::Status& grpc_status) {
  const absl::Status status = EndStatus(grpc_status);
  // The worker's own fault is neither a refusal nor what a client did; a stream that broke is one, for a
  // worker that can be reached and breaks or damages them all must not get every other request.
  const bool broken = absl::IsInternal(status) || absl::IsUnknown(status) || absl::IsDataLoss(status) ||
                      absl::IsUnimplemented(status);
  const bool fault = loss_ ? *loss_ == Loss::kDied || *loss_ == Loss::kDamaged : broken;
  lease_.worker().ReportEnd(status.ok() ? std::optional(true) : fault ? std::optional(false) : std::nullopt);
  span_.Set("clamor.next_token_index", static_cast<int64_t>(next_token_index_));
  if (loss_) span_.Set("clamor.loss", LossName(*loss_));
  if (!status.ok()) span_.Fail(status);
  span_.End();
  listener_->OnEnded(status);
}

}  // namespace clamor
