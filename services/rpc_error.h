// How errors cross the network, and the one table of their reasons.
//
// Inside a server an error is an absl::Status. Its reason, if it has one, stands in brackets at the start of
// the message ("[QUEUE_FULL] 256 requests wait, limit 256"); INVALID_ARGUMENT without one means
// INVALID_FIELD, and its message begins with the field's path ("options.sampling.top_p is 2, must be ...").
// On the wire the reason is a google.rpc.ErrorInfo of domain "clamor", the field a google.rpc.BadRequest, a
// time to wait a google.rpc.RetryInfo, what is full a google.rpc.QuotaFailure.
//
// Tested by tests/services/rpc_error_test.cc.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "grpcpp/support/status.h"

namespace clamor {

struct ErrorReason {
  absl::string_view name;
  absl::StatusCode code;
  int http_status;
  absl::string_view openai_type;
  absl::string_view openai_code;
  absl::Duration retry_after = absl::ZeroDuration();  // zero: no RetryInfo
};

// Every reason that our servers give.
std::span<const ErrorReason> ErrorReasons();
// Null if there is no such reason.
const ErrorReason* FindErrorReason(absl::string_view name);

// An error of a reason in the table, with the table's code. REQUIRES: FindErrorReason(reason).
absl::Status Refusal(absl::string_view reason, absl::string_view message);
// Likewise, with a RetryInfo of its own: when the refused one may try again.
absl::Status Refusal(absl::string_view reason, absl::string_view message, absl::Duration retry_after);
// INVALID_ARGUMENT of one field: "`field` `problem`".
absl::Status InvalidField(absl::string_view field, absl::string_view problem);

// The reason of `status`: the bracketed one, else the one its code implies, else empty.
absl::string_view ReasonOf(const absl::Status& status);
// The message without the bracketed reason.
absl::string_view MessageOf(const absl::Status& status);
// The field (or the key of metadata) that a message of an invalid field begins with; empty if it begins with
// something else.
absl::string_view FieldOf(absl::string_view message);
// When to try again: what another server said, else the table; zero if neither says.
absl::Duration RetryAfter(const absl::Status& status);

// To the wire. Details that FromGrpc found are passed on.
grpc::Status ToGrpc(const absl::Status& status);
// From the wire: reason and details as above. Unknown reasons of other servers are kept.
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace clamor
