#include "services/edge/api_error.h"

#include <array>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "services/rpc_error.h"

namespace clamor::edge {
namespace {

// Of errors that come without a reason of the table: other servers', gRPC's own and INTERNAL.
int HttpStatusOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kFailedPrecondition:
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kPermissionDenied:
      return 403;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kAlreadyExists:
      return 409;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kCancelled:
      return 499;
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

// What stands first in a path of our own requests, and what OpenAI's or our extension of theirs has instead.
constexpr std::array<std::pair<absl::string_view, absl::string_view>, 9> kNames = {{
    {"options.sampling.", ""},
    {"options.speculation.", "clamor."},
    {"options.draft_scope", "clamor.draft_scope"},
    {"options.priority", "clamor.priority"},
    {"options.json_schema", "response_format.json_schema.schema"},
    {"options.", ""},
    {"token_ids.ids", "prompt"},
    {"token_ids", "prompt"},
    {"text", "prompt"},
}};

std::string OpenAiName(absl::string_view field) {
  for (const auto& [ours, theirs] : kNames) {
    if (absl::StartsWith(field, ours)) return absl::StrCat(theirs, field.substr(ours.size()));
  }
  return std::string(field);
}

}  // namespace

ApiError ToApiError(const absl::Status& status) {
  const absl::string_view reason_name = ReasonOf(status);
  const ErrorReason* reason = FindErrorReason(reason_name);
  std::string message(MessageOf(status));
  nlohmann::ordered_json error = {{"message", ""}, {"type", nullptr}, {"param", nullptr}, {"code", nullptr}};
  ApiError result{.http_status = HttpStatusOf(status.code()), .retry_after = RetryAfter(status)};
  if (reason != nullptr) {
    result.http_status = reason->http_status;
    error["type"] = std::string(reason->openai_type);
    error["code"] = std::string(reason->openai_code);
  } else {
    error["type"] = result.http_status < 500 ? "invalid_request_error" : "server_error";
  }
  if (reason_name == "INVALID_FIELD" || reason_name == "UNSUPPORTED_SCHEMA") {
    if (const absl::string_view field = FieldOf(message); !field.empty()) {
      const std::string name = OpenAiName(field);
      message = absl::StrCat(name, absl::string_view(message).substr(field.size()));
      error["param"] = name;
    }
  }
  error["message"] = message;
  const nlohmann::ordered_json body = {{"error", std::move(error)}};
  result.body = body.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  return result;
}

}  // namespace clamor::edge
