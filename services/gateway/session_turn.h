// A call that adds a turn to a session: what its prompt is, and how its answer gets there.
//
//   the session is read -> its messages and the new ones are the prompt -> ... -> the answer is complete ->
//   the turn is appended -> the client hears Finished
// Tested by tests/services/gateway/session_test.cc.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "clamor/v1/generation.pb.h"
#include "clamor/v1/stored.pb.h"
#include "services/gateway/session_limits.h"
#include "services/gateway/worker_call.h"
#include "services/session/session_keeper.h"

namespace clamor {

struct SessionPrompt {
  v1::OpenTurn turn;
  ChatMessages messages;  // of the whole conversation
};

// Waits for the store. ABORTED "[SESSION_VERSION_CONFLICT]" if the session has another version than is
// expected.
absl::StatusOr<SessionPrompt> ReadSessionPrompt(SessionStore& store, const std::string& tenant,
                                                const v1::SessionTurn& session, const ChatMessages& messages);

// Adds the answer that it hears to the session, once it is complete and before `next` hears so. If it cannot
// be added the generation ends with the reason.
class SessionTurn final : public GenerationListener {
 public:
  // Both pointers outlive this. `model` is the name that the turn shall have.
  SessionTurn(SessionKeeper* keeper, std::string tenant, std::string model, const v1::OpenTurn& open,
              GenerationListener* next);

  void OnStarted(v1::Started started) override;
  void OnDelta(v1::Delta delta) override;
  void OnFinished(v1::Finished finished) override;
  void OnEnded(const absl::Status& status) override;

 private:
  void Append();

  SessionKeeper* const keeper_;
  const std::string tenant_, model_;
  const v1::Session base_;
  GenerationListener* const next_;
  v1::Turn turn_;
  v1::Finished finished_;
};

}  // namespace clamor
