#include "services/cli/connection.h"

#include "absl/strings/str_cat.h"
#include "services/rpc_error.h"

namespace clamor::cli {

std::shared_ptr<grpc::Channel> Connect(const std::string& server) {
  return grpc::CreateChannel(server, grpc::InsecureChannelCredentials());
}

absl::Status ServerStatus(const grpc::Status& grpc_status) {
  if (grpc_status.ok()) return absl::OkStatus();
  const absl::Status status = FromGrpc(grpc_status);
  const absl::string_view reason = ReasonOf(status);
  return absl::Status(status.code(), absl::StrCat("--server: ", MessageOf(status), " (",
                                                  absl::StatusCodeToString(status.code()),
                                                  reason.empty() ? "" : ", ", reason, ")"));
}

}  // namespace clamor::cli
