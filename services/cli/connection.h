// Calls from the command line to a server: over TLS and with an API key, if the flags or the environment say
// so.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/security/tls.h"

namespace clamor::cli {

// How to reach servers.
struct ConnectionFlags {
  TlsOptions tls;
  std::string api_key_file;  // else the environment's CLAMOR_API_KEY; empty and unset: no key is sent
};

// --api-key-file, --tls-ca, --tls-cert and --tls-key, for a verb that has --server.
void AddConnectionFlags(CLI::App& verb, ConnectionFlags& flags);

// A channel to HOST:PORT, which sends the key with every call; connects when it is first used. An error names
// the flag and the file.
absl::StatusOr<std::shared_ptr<grpc::Channel>> Connect(const std::string& server,
                                                       const ConnectionFlags& flags,
                                                       const grpc::ChannelArguments& arguments = {});

// The server's status as ours, its message "--server: <message> (UNAVAILABLE, NO_WORKER)".
absl::Status ServerStatus(const grpc::Status& status);

}  // namespace clamor::cli
