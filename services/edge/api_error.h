// Errors as OpenAI's clients know them. The table of reasons is the one of services/rpc_error.h.
//
// Tested by tests/services/edge/api_error_test.cc.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace clamor::edge {

struct ApiError {
  int http_status;
  absl::Duration retry_after;  // zero: nothing is said
  // {"error": {"message", "type", "param", "code"}}. Fields of our own requests are called what OpenAI's
  // requests call them.
  std::string body;
};

// REQUIRES: !status.ok().
ApiError ToApiError(const absl::Status& status);

}  // namespace clamor::edge
