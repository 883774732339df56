// `clamor status`: what a gateway serves, and how busy it is.
#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "clamor/v1/model.grpc.pb.h"
#include "kernels/status_macros.h"
#include "services/cli/command.h"
#include "services/cli/connection.h"

namespace clamor::cli {
namespace {

struct Flags {
  std::string server;
  ConnectionFlags connection;
  bool watch = false;
};

const char* StateName(v1::WorkerState state) {
  switch (state) {
    case v1::WORKER_STATE_READY:
      return "ready";
    case v1::WORKER_STATE_DRAINING:
      return "draining";
    default:
      return "down";
  }
}

template <typename Call, typename Request, typename Response>
absl::Status Ask(Call call, const Request& request, Response& response) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
  return ServerStatus(call(&context, request, &response));
}

absl::StatusOr<std::string> Describe(v1::ModelService::Stub& stub) {
  v1::ListModelsResponse models;
  CLAMOR_RETURN_IF_ERROR(
      Ask([&](auto... args) { return stub.ListModels(args...); }, v1::ListModelsRequest(), models));
  v1::GetStatusResponse status;
  CLAMOR_RETURN_IF_ERROR(
      Ask([&](auto... args) { return stub.GetStatus(args...); }, v1::GetStatusRequest(), status));

  std::string text;
  absl::StrAppendFormat(&text, "%-28s %-18s %9s %9s %8s %5s\n", "MODEL", "REVISION", "CONTEXT", "VOCAB",
                        "WEIGHTS", "KV");
  for (const v1::ModelInfo& model : models.models()) {
    absl::StrAppendFormat(&text, "%-28s %-18s %9d %9d %8s %5s\n", model.name(), model.revision(),
                          model.max_context_tokens(), model.vocab_size(), model.weights(), model.kv_cache());
  }
  absl::StrAppendFormat(&text, "\n%-28s %-9s %-20s %9s %9s %15s %12s\n", "WORKER", "STATE", "MODEL",
                        "RUNNING", "WAITING", "KV PAGES", "STEPS");
  for (const v1::WorkerStatus& worker : status.workers()) {
    const v1::WorkerLoad& load = worker.load();
    absl::StrAppendFormat(
        &text, "%-28s %-9s %-20s %9s %9s %15s %12d\n", worker.address(), StateName(worker.state()),
        worker.model().name(), absl::StrFormat("%d/%d", load.running(), load.max_running()),
        absl::StrFormat("%d/%d", load.waiting(), load.max_waiting()),
        absl::StrFormat("%d/%d", load.kv_pages_used(), load.kv_pages_total()), load.steps());
  }
  absl::StrAppendFormat(&text, "\nstreams open: %d\n", status.streams_open());
  return text;
}

absl::Status Status(const Flags& flags) {
  CLAMOR_ASSIGN_OR_RETURN(const auto channel, Connect(flags.server, flags.connection));
  const std::unique_ptr<v1::ModelService::Stub> stub = v1::ModelService::NewStub(channel);
  do {
    CLAMOR_ASSIGN_OR_RETURN(const std::string text, Describe(*stub));
    if (flags.watch) std::fputs("\033[H\033[2J", stdout);
    std::fputs(text.c_str(), stdout);
    std::fflush(stdout);
    if (flags.watch) absl::SleepFor(absl::Seconds(1));
  } while (flags.watch);
  return absl::OkStatus();
}

}  // namespace

void AddStatus(CLI::App& app, Run& run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand("status", "Models, workers and load of a gateway");
  verb->add_option("--server", flags->server, "HOST:PORT of a gateway")->required();
  AddConnectionFlags(*verb, flags->connection);
  verb->add_flag("--watch", flags->watch, "Again every second, until Ctrl-C");
  verb->callback([flags, &run] { run = [flags] { return Status(*flags); }; });
}

}  // namespace clamor::cli
