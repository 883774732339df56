#include "services/gateway/session_turn.h"

#include <limits>
#include <utility>

#include "absl/time/clock.h"
#include "kernels/status_macros.h"

namespace clamor {

absl::StatusOr<SessionPrompt> ReadSessionPrompt(SessionStore& store, const std::string& tenant,
                                                const v1::SessionTurn& session,
                                                const ChatMessages& messages) {
  CLAMOR_ASSIGN_OR_RETURN(Conversation so_far,
                          store.Read(tenant, session.name(), 0, std::numeric_limits<int32_t>::max()));
  if (session.has_expected_version() && session.expected_version() != so_far.session.version()) {
    v1::Session expected = so_far.session;
    expected.set_version(session.expected_version());
    return SessionMoved(expected, so_far.session.version());
  }
  CLAMOR_RETURN_IF_ERROR(CheckRoom(so_far.session, messages));
  SessionPrompt prompt;
  for (v1::Turn& turn : so_far.turns) {
    for (v1::ChatMessage& message : *turn.mutable_messages()) *prompt.messages.Add() = std::move(message);
    if (!turn.has_answer()) continue;
    v1::ChatMessage& answer = *prompt.messages.Add();
    answer.set_role("assistant");
    answer.set_content(std::move(*turn.mutable_answer()->mutable_text()));
  }
  prompt.messages.MergeFrom(messages);
  *prompt.turn.mutable_session() = std::move(so_far.session);
  *prompt.turn.mutable_messages() = messages;
  return prompt;
}

SessionTurn::SessionTurn(SessionKeeper* keeper, std::string tenant, std::string model,
                         const v1::OpenTurn& open, GenerationListener* next)
    : keeper_(keeper),
      tenant_(std::move(tenant)),
      model_(std::move(model)),
      base_(open.session()),
      next_(next) {
  *turn_.mutable_messages() = open.messages();
}

void SessionTurn::OnStarted(v1::Started started) {
  v1::TurnAnswer& answer = *turn_.mutable_answer();
  answer.set_request_id(started.request_id());
  answer.set_model(model_);
  answer.set_model_revision(started.model_revision());
  answer.set_seed(started.seed());
  next_->OnStarted(std::move(started));
}

void SessionTurn::OnDelta(v1::Delta delta) {
  turn_.mutable_answer()->mutable_token_ids()->MergeFrom(delta.token_ids());
  turn_.mutable_answer()->mutable_text()->append(delta.text());
  next_->OnDelta(std::move(delta));
}

void SessionTurn::OnFinished(v1::Finished finished) {
  turn_.mutable_answer()->set_finish_reason(finished.reason());
  finished_ = std::move(finished);
}

void SessionTurn::OnEnded(const absl::Status& status) {
  if (!status.ok()) return next_->OnEnded(status);
  if (const absl::Status waits = keeper_->Run([this] { Append(); }); !waits.ok()) next_->OnEnded(waits);
}

void SessionTurn::Append() {
  *turn_.mutable_create_time() = ToTimestamp(absl::ToUnixMillis(absl::Now()));
  const auto session = keeper_->store().Append(tenant_, base_, std::move(turn_));
  if (session.ok()) {
    finished_.set_session_version(session->version());
    next_->OnFinished(std::move(finished_));
  }
  next_->OnEnded(session.status());
}

}  // namespace clamor
