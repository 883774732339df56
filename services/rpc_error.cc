#include "services/rpc_error.h"

#include <algorithm>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace clamor {
namespace {

constexpr absl::string_view kDomain = "clamor";
constexpr absl::string_view kTypePrefix = "type.googleapis.com/";

const ErrorReason kReasons[] = {
    {"INVALID_FIELD", absl::StatusCode::kInvalidArgument, 400, "invalid_request_error", "invalid_value"},
    {"UNSUPPORTED_SCHEMA", absl::StatusCode::kInvalidArgument, 400, "invalid_request_error",
     "unsupported_schema"},
    {"CONTEXT_TOO_LONG", absl::StatusCode::kInvalidArgument, 400, "invalid_request_error",
     "context_length_exceeded"},
    {"MODEL_NOT_FOUND", absl::StatusCode::kNotFound, 404, "invalid_request_error", "model_not_found"},
    {"SESSION_NOT_FOUND", absl::StatusCode::kNotFound, 404, "invalid_request_error", "session_not_found"},
    {"SESSION_EXISTS", absl::StatusCode::kAlreadyExists, 409, "invalid_request_error", "session_exists"},
    {"SESSION_VERSION_CONFLICT", absl::StatusCode::kAborted, 409, "invalid_request_error",
     "session_version_conflict"},
    {"STREAM_NOT_FOUND", absl::StatusCode::kNotFound, 404, "invalid_request_error", "stream_not_found"},
    {"QUEUE_FULL", absl::StatusCode::kResourceExhausted, 429, "rate_limit_error", "queue_full",
     absl::Seconds(1)},
    {"TENANT_QUOTA", absl::StatusCode::kResourceExhausted, 429, "rate_limit_error", "tenant_quota",
     absl::Seconds(1)},
    {"STORE_FULL", absl::StatusCode::kResourceExhausted, 429, "insufficient_quota", "store_full"},
    {"FOLLOWER", absl::StatusCode::kFailedPrecondition, 400, "invalid_request_error", "follower"},
    {"STORE_UNAVAILABLE", absl::StatusCode::kUnavailable, 503, "server_error", "store_unavailable",
     absl::Seconds(1)},
    {"NO_WORKER", absl::StatusCode::kUnavailable, 503, "server_error", "no_worker"},
    {"NO_COMPATIBLE_WORKER", absl::StatusCode::kUnavailable, 503, "server_error", "no_compatible_worker"},
    {"POISON_REQUEST", absl::StatusCode::kAborted, 500, "server_error", "poison_request"},
    {"DRAINING", absl::StatusCode::kUnavailable, 503, "server_error", "draining"},
    {"SLOW_CONSUMER", absl::StatusCode::kCancelled, 499, "invalid_request_error", "slow_consumer"},
    {"DEADLINE", absl::StatusCode::kDeadlineExceeded, 504, "server_error", "deadline_exceeded"},
    {"TENANT_DELETED", absl::StatusCode::kCancelled, 499, "invalid_request_error", "tenant_deleted"},
    {"UNAUTHENTICATED", absl::StatusCode::kUnauthenticated, 401, "authentication_error", "invalid_api_key"},
    {"NOT_ALLOWED", absl::StatusCode::kPermissionDenied, 403, "permission_error", "not_allowed"},
    // Of the gateway's OpenAI edge alone.
    {"UNKNOWN_URL", absl::StatusCode::kNotFound, 404, "invalid_request_error", "unknown_url"},
    {"METHOD_NOT_ALLOWED", absl::StatusCode::kUnimplemented, 405, "invalid_request_error",
     "method_not_allowed"},
    {"HOST_NOT_ALLOWED", absl::StatusCode::kPermissionDenied, 421, "invalid_request_error",
     "host_not_allowed"},
    {"ORIGIN_NOT_ALLOWED", absl::StatusCode::kPermissionDenied, 403, "invalid_request_error",
     "origin_not_allowed"},
    {"BODY_TOO_LARGE", absl::StatusCode::kInvalidArgument, 413, "invalid_request_error", "request_too_large"},
    {"NOT_HTTP", absl::StatusCode::kInvalidArgument, 400, "invalid_request_error", "malformed_request"},
    {"TOO_MANY_CONNECTIONS", absl::StatusCode::kResourceExhausted, 503, "server_error",
     "too_many_connections", absl::Seconds(1)},
};

// The bracketed reason at the start of `message`, without the brackets; empty if there is none.
absl::string_view BracketedReason(absl::string_view message) {
  if (message.empty() || message[0] != '[') return {};
  size_t end = message.find(']');
  if (end == message.npos || end < 2 || end > 64) return {};
  absl::string_view reason = message.substr(1, end - 1);
  bool well_formed = std::all_of(reason.begin(), reason.end(), [](char c) {
    return absl::ascii_isupper(c) || absl::ascii_isdigit(c) || c == '_';
  });
  return well_formed ? reason : absl::string_view{};
}

std::string TypeUrl(const google::protobuf::Message& message) {
  return absl::StrCat(kTypePrefix, message.GetDescriptor()->full_name());
}

}  // namespace

std::span<const ErrorReason> ErrorReasons() { return kReasons; }

const ErrorReason* FindErrorReason(absl::string_view name) {
  auto it = std::find_if(std::begin(kReasons), std::end(kReasons),
                         [&](const ErrorReason& r) { return r.name == name; });
  return it == std::end(kReasons) ? nullptr : it;
}

absl::Status Refusal(absl::string_view reason, absl::string_view message) {
  return absl::Status(FindErrorReason(reason)->code, absl::StrCat("[", reason, "] ", message));
}

absl::Status Refusal(absl::string_view reason, absl::string_view message, absl::Duration retry_after) {
  absl::Status status = Refusal(reason, message);
  google::rpc::RetryInfo retry;
  const int64_t nanoseconds = absl::ToInt64Nanoseconds(retry_after);
  retry.mutable_retry_delay()->set_seconds(nanoseconds / 1'000'000'000);
  retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(nanoseconds % 1'000'000'000));
  status.SetPayload(TypeUrl(retry), absl::Cord(retry.SerializeAsString()));
  return status;
}

absl::Status InvalidField(absl::string_view field, absl::string_view problem) {
  return absl::InvalidArgumentError(absl::StrCat(field, " ", problem));
}

absl::string_view ReasonOf(const absl::Status& status) {
  absl::string_view reason = BracketedReason(status.message());
  if (!reason.empty()) return reason;
  if (absl::IsInvalidArgument(status)) return "INVALID_FIELD";
  if (absl::IsDeadlineExceeded(status)) return "DEADLINE";
  return {};
}

absl::string_view MessageOf(const absl::Status& status) {
  absl::string_view message = status.message();
  absl::string_view reason = BracketedReason(message);
  if (reason.empty()) return message;
  return absl::StripLeadingAsciiWhitespace(message.substr(reason.size() + 2));
}

absl::string_view FieldOf(absl::string_view message) {
  size_t end = std::min(message.find_first_of(" :"), message.size());
  absl::string_view field = message.substr(0, end);
  bool well_formed =
      !field.empty() && absl::ascii_islower(field[0]) && std::all_of(field.begin(), field.end(), [](char c) {
        return absl::ascii_isalnum(c) || c == '_' || c == '-' || c == '.' || c == '[' || c == ']';
      });
  return well_formed ? field : absl::string_view{};
}

absl::Duration RetryAfter(const absl::Status& status) {
  google::rpc::RetryInfo retry;
  const auto payload = status.GetPayload(TypeUrl(retry));
  if (payload && retry.ParseFromString(std::string(*payload))) {
    return absl::Seconds(retry.retry_delay().seconds()) + absl::Nanoseconds(retry.retry_delay().nanos());
  }
  const ErrorReason* reason = FindErrorReason(ReasonOf(status));
  return reason == nullptr ? absl::ZeroDuration() : reason->retry_after;
}

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const std::string message(MessageOf(status));
  const std::string reason(ReasonOf(status));
  google::rpc::Status details;
  details.set_code(status.raw_code());
  details.set_message(message);
  if (!reason.empty()) {
    google::rpc::ErrorInfo info;
    info.set_reason(reason);
    info.set_domain(std::string(kDomain));
    details.add_details()->PackFrom(info);
  }
  // Details from another server take the place of those that the table would add.
  bool passed_on = false;
  status.ForEachPayload([&](absl::string_view type_url, const absl::Cord& payload) {
    google::protobuf::Any* any = details.add_details();
    any->set_type_url(std::string(type_url));
    any->set_value(std::string(payload));
    passed_on = true;
  });
  const ErrorReason* known = FindErrorReason(reason);
  if (!passed_on && reason == "INVALID_FIELD") {
    google::rpc::BadRequest bad_request;
    auto* violation = bad_request.add_field_violations();
    violation->set_field(std::string(FieldOf(message)));
    violation->set_description(message);
    details.add_details()->PackFrom(bad_request);
  }
  if (!passed_on && reason == "STORE_FULL") {
    google::rpc::QuotaFailure quota;
    auto* violation = quota.add_violations();
    violation->set_subject("store");
    violation->set_description(message);
    details.add_details()->PackFrom(quota);
  }
  if (!passed_on && known != nullptr && known->retry_after > absl::ZeroDuration()) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(absl::ToInt64Seconds(known->retry_after));
    details.add_details()->PackFrom(retry);
  }
  return grpc::Status(static_cast<grpc::StatusCode>(status.raw_code()), message,
                      details.details_size() > 0 ? details.SerializeAsString() : std::string());
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) details.Clear();
  std::string reason;
  for (const auto& any : details.details()) {
    google::rpc::ErrorInfo info;
    if (any.Is<google::rpc::ErrorInfo>() && any.UnpackTo(&info) && info.domain() == kDomain)
      reason = info.reason();
  }
  std::string message = status.error_message();
  if (!reason.empty()) message = absl::StrCat("[", reason, "] ", message);
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), message);
  const std::string error_info = TypeUrl(google::rpc::ErrorInfo::default_instance());
  for (const auto& any : details.details()) {
    if (any.type_url() != error_info) result.SetPayload(any.type_url(), absl::Cord(any.value()));
  }
  return result;
}

}  // namespace clamor
