#include "services/worker/token_stream.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/rpc_error.h"

namespace clamor {
namespace {

constexpr int kMaxUnreadTrees = 64;  // of a traced request; further ones are left out

void AppendTree(const Delta& delta, v1::TracedTree& message) {
  message.set_first_token_index(static_cast<uint64_t>(delta.first_token_index));
  for (size_t i = 1; i < delta.tree.size(); ++i) {
    message.add_token_ids(static_cast<uint32_t>(delta.tree[i].token));
    message.add_parents(static_cast<uint32_t>(delta.tree[i].parent));
    message.add_sources(static_cast<v1::DraftSource>(delta.tree[i].source));
  }
  for (const int32_t node : delta.accepted) message.add_accepted(static_cast<uint32_t>(node - 1));
}

void AppendDelta(const Delta& delta, v1::Delta& message) {
  if (message.token_ids().empty()) {
    message.set_first_token_index(static_cast<uint64_t>(delta.first_token_index));
    message.set_first_text_byte(static_cast<uint64_t>(delta.first_text_byte));
  }
  message.mutable_token_ids()->Add(delta.token_ids.begin(), delta.token_ids.end());
  message.mutable_text()->append(delta.text);
  for (const Source source : delta.sources) message.add_sources(static_cast<v1::DraftSource>(source));
  message.mutable_text_bytes()->Add(delta.text_bytes.begin(), delta.text_bytes.end());
  for (const TokenLogprobs& logprobs : delta.logprobs) {
    v1::TokenLogprobs& added = *message.add_logprobs();
    added.set_logprob(logprobs.logprob);
    for (const TokenLogprob& likely : logprobs.top) {
      v1::TokenLogprob& top = *added.add_top();
      top.set_token_id(static_cast<uint32_t>(likely.id));
      top.set_logprob(likely.logprob);
    }
  }
  if (!delta.tree.empty() && message.trees_size() < kMaxUnreadTrees) AppendTree(delta, *message.add_trees());
}

v1::Finished ToProto(const Finished& finished) {
  v1::Finished message;
  message.set_reason(finished.reason == FinishReason::kLength ? v1::FINISH_REASON_LENGTH
                                                              : v1::FINISH_REASON_STOP);
  message.set_matched_stop(finished.matched_stop);
  message.mutable_usage()->set_prompt_tokens(finished.usage.prompt_tokens);
  message.mutable_usage()->set_completion_tokens(finished.usage.completion_tokens);
  message.mutable_usage()->set_cached_tokens(finished.usage.cached_tokens);
  const GenerationStats& stats = finished.stats;
  message.mutable_timings()->set_queue_seconds(stats.queue_seconds);
  message.mutable_timings()->set_prefill_seconds(stats.prefill_seconds);
  message.mutable_timings()->set_decode_seconds(stats.decode_seconds);
  message.mutable_speculation()->set_forwards(stats.forwards);
  message.mutable_speculation()->set_draft_nodes(stats.draft_nodes);
  v1::AcceptedBySource& accepted = *message.mutable_speculation()->mutable_accepted();
  const auto by = [&stats](Source source) { return stats.accepted_by_source[static_cast<size_t>(source)]; };
  accepted.set_jacobi(by(Source::kJacobi));
  accepted.set_context(by(Source::kContext));
  accepted.set_store(by(Source::kStore));
  accepted.set_adjacency(by(Source::kAdjacency));
  accepted.set_recycled(by(Source::kRecycled));
  accepted.set_noise(by(Source::kNoise));
  return message;
}

// The wire's numbers are ours.
static_assert(static_cast<int>(Source::kJacobi) == v1::DRAFT_SOURCE_JACOBI);
static_assert(static_cast<int>(Source::kNoise) == v1::DRAFT_SOURCE_NOISE);

}  // namespace

TokenStream::TokenStream(grpc::CallbackServerContext* context, v1::Started started,
                         const TokenStreamOptions& options, Ending ending)
    : options_(options), ending_(std::move(ending)), farewell_(context), started_(std::move(started)) {}

void TokenStream::OnAccepted(Canceller cancel) {
  std::optional<FinishReason> reason;
  {
    absl::MutexLock lock(&mu_);
    canceller_ = cancel;
    reason = cancel_;
  }
  if (reason.has_value()) cancel(*reason);
}

void TokenStream::OnRefused(const absl::Status& status) {
  {
    absl::MutexLock lock(&mu_);
    closed_ = true;
  }
  Finish(ToGrpc(status));
  Release();
}

void TokenStream::OnStarted(int32_t cached_tokens) {
  {
    absl::MutexLock lock(&mu_);
    started_.set_cached_tokens(static_cast<uint32_t>(cached_tokens));
    started_due_ = true;
  }
  Pump();
}

void TokenStream::OnDelta(const Delta& delta) {
  if (ending_) ids_.insert(ids_.end(), delta.token_ids.begin(), delta.token_ids.end());
  bool slow = false;
  {
    absl::MutexLock lock(&mu_);
    if (cancel_.has_value()) return;  // nobody will read it
    AppendDelta(delta, unread_);
    slow = unread_.token_ids_size() > options_.max_unread_tokens ||
           unread_.text().size() > options_.max_unread_bytes;
    if (slow) unread_.Clear();
  }
  if (slow) {
    Cancel(FinishReason::kSlowConsumer);
    farewell_.Set(absl::Now() + options_.farewell);
  }
  Pump();
}

void TokenStream::OnFinished(const Finished& finished) {
  if (ending_) ending_(finished, std::move(ids_));
  {
    absl::MutexLock lock(&mu_);
    finished_ = finished;
  }
  Pump();
  Release();
}

void TokenStream::Pump() {
  std::optional<grpc::Status> end;
  bool last = false;
  {
    absl::MutexLock lock(&mu_);
    if (writing_ || closed_) return;
    message_.Clear();
    if (finished_.has_value() && !FinalStatus().ok()) {
      end = ToGrpc(FinalStatus());
      closed_ = true;
    } else if (cancel_.has_value()) {
      return;  // until the engine has ended it
    } else if (started_due_) {
      message_.mutable_started()->Swap(&started_);
      started_due_ = false;
    } else if (!unread_.token_ids().empty() || !unread_.text().empty()) {
      message_.mutable_delta()->Swap(&unread_);
    } else if (finished_.has_value()) {
      *message_.mutable_finished() = ToProto(*finished_);
      last = closed_ = true;
    } else {
      return;
    }
    writing_ = !closed_;
    if (!end.has_value()) message_.set_check(check_.Add(message_));
  }
  if (end.has_value()) {
    Finish(*end);
  } else if (last) {
    StartWriteAndFinish(&message_, grpc::WriteOptions(), grpc::Status::OK);
  } else {
    StartWrite(&message_);
  }
}

absl::Status TokenStream::FinalStatus() const {
  if (cancel_ == FinishReason::kSlowConsumer) {
    return Refusal("SLOW_CONSUMER", absl::StrCat("more than ", options_.max_unread_tokens, " tokens or ",
                                                 options_.max_unread_bytes, " bytes were left unread"));
  }
  if (cancel_.has_value()) return absl::CancelledError("cancelled by the client");
  switch (finished_->reason) {
    case FinishReason::kDeadline:
      return Refusal("DEADLINE", "the deadline passed before the answer was complete");
    case FinishReason::kCancelled:
    case FinishReason::kSlowConsumer:
      return Refusal("DRAINING", "the worker stopped before the answer was complete");
    case FinishReason::kTenantDeleted:
      return Refusal("TENANT_DELETED", "the tenant was deleted before the answer was complete");
    case FinishReason::kStop:
    case FinishReason::kLength:
      break;
  }
  return absl::OkStatus();
}

void TokenStream::Cancel(FinishReason reason) {
  Canceller canceller;
  {
    absl::MutexLock lock(&mu_);
    if (cancel_.has_value() || finished_.has_value()) return;
    cancel_ = reason;
    canceller = canceller_;
  }
  if (canceller) canceller(reason);  // else OnAccepted does it
}

void TokenStream::OnWriteDone(bool ok) {
  if (!ok) Cancel(FinishReason::kCancelled);
  {
    absl::MutexLock lock(&mu_);
    writing_ = false;
  }
  Pump();
}

void TokenStream::OnCancel() { Cancel(FinishReason::kCancelled); }

void TokenStream::OnDone() {
  farewell_.Forget();
  Release();
}

void TokenStream::Release() {
  if (owners_.fetch_sub(1) == 1) delete this;
}

}  // namespace clamor
