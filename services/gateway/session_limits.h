// What a client may ask of sessions. After these nobody checks again.
// Tested by tests/services/gateway/session_test.cc.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "clamor/v1/session.pb.h"
#include "google/protobuf/repeated_ptr_field.h"

namespace clamor {

using ChatMessages = google::protobuf::RepeatedPtrField<v1::ChatMessage>;

// 1 to 128 characters of [A-Za-z0-9._-].
absl::Status CheckSessionName(const std::string& field, const std::string& name);

// `given` as it may be, or `otherwise` if it is not given.
absl::StatusOr<google::protobuf::Duration> SessionTtl(const v1::CreateSessionRequest& request,
                                                      absl::Duration otherwise);

// Messages that one turn adds.
absl::Status CheckTurnMessages(const ChatMessages& messages);
// The session has room for them and an answer. RESOURCE_EXHAUSTED "[STORE_FULL]" has both numbers.
absl::Status CheckRoom(const v1::Session& session, const ChatMessages& messages);

}  // namespace clamor
