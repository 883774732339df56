#include "services/rpc_error.h"

#include <gtest/gtest.h>

#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace clamor {
namespace {

// The detail of that type in what crosses the wire.
template <class Message>
std::optional<Message> Detail(const grpc::Status& status) {
  google::rpc::Status details;
  EXPECT_TRUE(details.ParseFromString(status.error_details()));
  for (const auto& any : details.details()) {
    Message message;
    if (any.UnpackTo(&message)) return message;
  }
  return std::nullopt;
}

TEST(RpcErrorTest, EveryReasonCrossesAndComesBack) {
  std::set<absl::string_view> names;
  for (const ErrorReason& reason : ErrorReasons()) {
    SCOPED_TRACE(std::string(reason.name));
    EXPECT_TRUE(names.insert(reason.name).second) << "listed twice";
    EXPECT_EQ(FindErrorReason(reason.name), &reason);
    EXPECT_GE(reason.http_status, 400);

    const grpc::Status wire = ToGrpc(Refusal(reason.name, "queue of 7, limit 7"));
    EXPECT_EQ(static_cast<int>(wire.error_code()), static_cast<int>(reason.code));
    EXPECT_EQ(wire.error_message(), "queue of 7, limit 7");
    const auto info = Detail<google::rpc::ErrorInfo>(wire);
    ASSERT_TRUE(info.has_value());
    EXPECT_EQ(info->reason(), std::string(reason.name));
    EXPECT_EQ(info->domain(), "clamor");
    EXPECT_EQ(Detail<google::rpc::RetryInfo>(wire).has_value(), reason.retry_after > absl::ZeroDuration());

    const absl::Status back = FromGrpc(wire);
    EXPECT_EQ(back.code(), reason.code);
    EXPECT_EQ(ReasonOf(back), reason.name);
    EXPECT_EQ(MessageOf(back), "queue of 7, limit 7");
  }
}

TEST(RpcErrorTest, InvalidFieldNamesTheField) {
  const grpc::Status wire = ToGrpc(InvalidField("options.stop[2]", "has 0 bytes, must have 1 to 256"));
  EXPECT_EQ(wire.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Detail<google::rpc::ErrorInfo>(wire)->reason(), "INVALID_FIELD");
  const auto bad_request = Detail<google::rpc::BadRequest>(wire);
  ASSERT_TRUE(bad_request.has_value());
  ASSERT_EQ(bad_request->field_violations_size(), 1);
  EXPECT_EQ(bad_request->field_violations(0).field(), "options.stop[2]");
  EXPECT_EQ(bad_request->field_violations(0).description(),
            "options.stop[2] has 0 bytes, must have 1 to 256");
}

TEST(RpcErrorTest, InvalidMetadataIsNamedByItsKey) {
  const auto bad_request =
      Detail<google::rpc::BadRequest>(ToGrpc(InvalidField("x-clamor-tenant", "has 0 characters")));
  ASSERT_TRUE(bad_request.has_value());
  EXPECT_EQ(bad_request->field_violations(0).field(), "x-clamor-tenant");
}

TEST(RpcErrorTest, FieldIsEmptyWhereTheMessageDoesNotBeginWithOne) {
  for (const char* message : {"", "Too long", "7 is odd", "-x is odd"}) {
    const auto bad_request = Detail<google::rpc::BadRequest>(ToGrpc(absl::InvalidArgumentError(message)));
    ASSERT_TRUE(bad_request.has_value()) << message;
    EXPECT_EQ(bad_request->field_violations(0).field(), "") << message;
  }
}

TEST(RpcErrorTest, ForwardingChangesNothing) {
  for (const absl::Status& status :
       {Refusal("QUEUE_FULL", "full"), InvalidField("text", "is odd"), absl::InternalError("disk"),
        absl::UnavailableError("[MADE_BY_ANOTHER] hm"), absl::DeadlineExceededError("late")}) {
    const grpc::Status once = ToGrpc(status);
    const grpc::Status twice = ToGrpc(FromGrpc(once));
    EXPECT_EQ(twice.error_code(), once.error_code());
    EXPECT_EQ(twice.error_message(), once.error_message());
    EXPECT_EQ(twice.error_details(), once.error_details()) << status;
  }
}

TEST(RpcErrorTest, ErrorsWithoutReasonStayWithout) {
  EXPECT_EQ(ReasonOf(absl::InternalError("x")), "");
  EXPECT_EQ(ReasonOf(absl::InternalError("[lower] x")), "");
  EXPECT_EQ(ReasonOf(absl::InternalError("[UNCLOSED x")), "");
  EXPECT_EQ(ReasonOf(absl::InternalError("[] x")), "");
  EXPECT_EQ(ReasonOf(absl::InternalError(absl::StrCat("[", std::string(100, 'A'), "]"))), "");
  EXPECT_EQ(MessageOf(absl::InternalError("[lower] x")), "[lower] x");
  EXPECT_EQ(ToGrpc(absl::InternalError("x")).error_details(), "");
  EXPECT_EQ(ReasonOf(FromGrpc(grpc::Status(grpc::UNAVAILABLE, "socket", "\xff garbage"))), "");
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpc(grpc::Status::OK).ok());
}

}  // namespace
}  // namespace clamor
