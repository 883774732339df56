#include "services/edge/api_error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "google/rpc/error_details.pb.h"
#include "nlohmann/json.hpp"
#include "services/rpc_error.h"

namespace clamor::edge {
namespace {

using nlohmann::json;

json ErrorOf(const absl::Status& status) { return json::parse(ToApiError(status).body)["error"]; }

TEST(ApiErrorTest, EveryReasonIsWhatTheTableSays) {
  for (const ErrorReason& reason : ErrorReasons()) {
    SCOPED_TRACE(std::string(reason.name));
    const absl::Status status = Refusal(reason.name, "seven of six");
    const ApiError error = ToApiError(status);
    EXPECT_EQ(error.http_status, reason.http_status);
    EXPECT_EQ(error.retry_after, reason.retry_after);
    EXPECT_EQ(ErrorOf(status)["type"], std::string(reason.openai_type));
    EXPECT_EQ(ErrorOf(status)["code"], std::string(reason.openai_code));
    EXPECT_EQ(ErrorOf(status).size(), 4u);
  }
  EXPECT_EQ(ToApiError(Refusal("QUEUE_FULL", "x")).http_status, 429);
  EXPECT_EQ(ToApiError(Refusal("QUEUE_FULL", "x")).retry_after, absl::Seconds(1));
}

TEST(ApiErrorTest, FieldsHaveOpenAiNames) {
  const std::pair<const char*, const char*> cases[] = {{"options.sampling.temperature", "temperature"},
                                                       {"options.sampling.logit_bias[7]", "logit_bias[7]"},
                                                       {"options.max_tokens", "max_tokens"},
                                                       {"options.stop[1]", "stop[1]"},
                                                       {"options.top_logprobs", "top_logprobs"},
                                                       {"options.speculation.nodes", "clamor.nodes"},
                                                       {"options.priority", "clamor.priority"},
                                                       {"options.draft_scope", "clamor.draft_scope"},
                                                       {"token_ids.ids[3]", "prompt[3]"},
                                                       {"text", "prompt"},
                                                       {"messages[0].role", "messages[0].role"},
                                                       {"model", "model"}};
  for (const auto& [ours, theirs] : cases) {
    const json error = ErrorOf(InvalidField(ours, "is 3, must be 2"));
    EXPECT_EQ(error["param"], theirs);
    EXPECT_EQ(error["message"], std::string(theirs) + " is 3, must be 2");
    EXPECT_EQ(error["code"], "invalid_value");
  }
  const json schema = ErrorOf(Refusal("UNSUPPORTED_SCHEMA", "options.json_schema: #/a: keyword \"not\""));
  EXPECT_EQ(schema["param"], "response_format.json_schema.schema");
  EXPECT_EQ(schema["message"], "response_format.json_schema.schema: #/a: keyword \"not\"");
  EXPECT_EQ(ErrorOf(Refusal("NO_WORKER", "text is no field here"))["param"], nullptr);
}

TEST(ApiErrorTest, ErrorsWithoutAReasonGoByTheirCode) {
  EXPECT_EQ(ToApiError(absl::InternalError("x")).http_status, 500);
  EXPECT_EQ(ErrorOf(absl::InternalError("x"))["type"], "server_error");
  EXPECT_EQ(ErrorOf(absl::InternalError("x"))["code"], nullptr);
  EXPECT_EQ(ToApiError(absl::UnavailableError("x")).http_status, 503);
  EXPECT_EQ(ToApiError(absl::CancelledError("x")).http_status, 499);
  EXPECT_EQ(ToApiError(absl::DeadlineExceededError("x")).http_status, 504);
  EXPECT_EQ(ToApiError(absl::ResourceExhaustedError("x")).http_status, 429);
  EXPECT_EQ(ErrorOf(absl::UnauthenticatedError("x"))["type"], "invalid_request_error");
}

TEST(ApiErrorTest, AnotherServersWaitIsPassedOn) {
  absl::Status status = Refusal("QUEUE_FULL", "x");
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(7);
  status.SetPayload("type.googleapis.com/google.rpc.RetryInfo", absl::Cord(retry.SerializeAsString()));
  EXPECT_EQ(ToApiError(status).retry_after, absl::Seconds(7));
}

TEST(ApiErrorTest, MessagesOfBytesAreStillJson) {
  EXPECT_EQ(ErrorOf(absl::InternalError("a\xff\"\n"))["message"], "a\xEF\xBF\xBD\"\n");
}

}  // namespace
}  // namespace clamor::edge
