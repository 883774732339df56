// `clamor checkpoint`: a consistent copy of a running store, for backups.
#include <cstdio>
#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "clamor/v1/retrieval.grpc.pb.h"
#include "kernels/status_macros.h"
#include "services/cli/command.h"
#include "services/cli/connection.h"

namespace clamor::cli {
namespace {

struct Flags {
  std::string server;
  std::string name;
  double timeout_seconds = 600;
};

absl::Status Checkpoint(const Flags& flags) {
  v1::CheckpointRequest request;
  request.set_name(!flags.name.empty()
                       ? flags.name
                       : absl::FormatTime("%Y-%m-%dT%H-%M-%S", absl::Now(), absl::UTCTimeZone()));
  v1::CheckpointResponse response;
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(flags.timeout_seconds)));
  const auto stub = v1::RetrievalService::NewStub(Connect(flags.server));
  CLAMOR_RETURN_IF_ERROR(ServerStatus(stub->Checkpoint(&context, request, &response)));
  std::printf("%s\n", response.path().c_str());
  return absl::OkStatus();
}

}  // namespace

void AddCheckpoint(CLI::App& app, Run& run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand("checkpoint",
                                      "A consistent copy of a store on its server's disk; prints its folder");
  verb->add_option("--server", flags->server, "HOST:PORT of a retrieval service")->required();
  verb->add_option("--name", flags->name, "Of the copy: letters, digits, - and _ (default: the time)");
  verb->add_option("--timeout", flags->timeout_seconds, "Seconds that it may take")
      ->check(CLI::Range(0.001, 86400.0))
      ->capture_default_str();
  verb->callback([flags, &run] { run = [flags] { return Checkpoint(*flags); }; });
}

}  // namespace clamor::cli
