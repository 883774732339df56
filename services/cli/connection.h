// Calls from the command line to a server.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "absl/status/status.h"

namespace clamor::cli {

// A channel to HOST:PORT; connects when it is first used.
std::shared_ptr<grpc::Channel> Connect(const std::string& server);

// The server's status as ours, its message "--server: <message> (UNAVAILABLE, NO_WORKER)".
absl::Status ServerStatus(const grpc::Status& status);

}  // namespace clamor::cli
