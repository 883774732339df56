#include "services/gateway/session_limits.h"

#include "absl/strings/str_cat.h"
#include "services/rpc_error.h"
#include "services/session/session_store.h"
#include "services/tenant.h"

namespace clamor {
namespace {

constexpr uint32_t kMaxMessages = 1024;  // as many as a conversation may have without a session
constexpr uint64_t kMaxSessionBytes = 16 << 20, kMaxTurnBytes = 1 << 20;
constexpr int64_t kMinTtlSeconds = 1, kMaxTtlSeconds = 3650 * int64_t{86400};

}  // namespace

absl::Status CheckSessionName(const std::string& field, const std::string& name) {
  return CheckTenant(field, name);  // what a name may be, it may be here
}

absl::StatusOr<google::protobuf::Duration> SessionTtl(const v1::CreateSessionRequest& request,
                                                      absl::Duration otherwise) {
  if (!request.has_ttl()) return ToDuration(absl::ToInt64Milliseconds(otherwise));
  if (request.ttl().seconds() >= kMinTtlSeconds && request.ttl().seconds() <= kMaxTtlSeconds)
    return ToDuration(Milliseconds(request.ttl()));
  return InvalidField("ttl", absl::StrCat("is ", request.ttl().seconds(), " seconds, must be ",
                                          kMinTtlSeconds, " to ", kMaxTtlSeconds));
}

absl::Status CheckTurnMessages(const ChatMessages& messages) {
  uint64_t bytes = 0;
  for (const v1::ChatMessage& message : messages) bytes += message.ByteSizeLong();
  if (bytes <= kMaxTurnBytes) return absl::OkStatus();
  return InvalidField(
      "messages", absl::StrCat("have ", bytes, " bytes, must have at most ", kMaxTurnBytes, " in a session"));
}

absl::Status CheckRoom(const v1::Session& session, const ChatMessages& messages) {
  const uint64_t count = uint64_t{session.messages()} + static_cast<uint64_t>(messages.size()) + 1;
  if (count > kMaxMessages) {
    return Refusal("STORE_FULL", absl::StrCat("session \"", session.name(), "\" would have ", count,
                                              " messages, limit ", kMaxMessages));
  }
  if (session.bytes() >= kMaxSessionBytes) {
    return Refusal("STORE_FULL", absl::StrCat("session \"", session.name(), "\" has ", session.bytes(),
                                              " bytes, limit ", kMaxSessionBytes));
  }
  return absl::OkStatus();
}

}  // namespace clamor
