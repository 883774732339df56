// clamor serve: a retrieval service, a worker and a gateway in this process, for one machine and one user.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "prometheus/registry.h"
#include "retrieval/suffix_store.h"
#include "services/cli/command.h"
#include "services/edge/edge_flags.h"
#include "services/gateway/gateway.h"
#include "services/log.h"
#include "services/retrieval/retrieval_service.h"
#include "services/worker/worker.h"
#include "services/worker/worker_service.h"

namespace clamor::cli {
namespace {

struct Flags {
  WorkerOptions worker;
  std::string store;
  std::string listen = "127.0.0.1:7700", http = "127.0.0.1:7701";
  GatewayLimits gateway;
  bool log = false;
};

// Of the servers that only this process talks to.
ServerOptions Inner(const std::string& name) {
  return {.name = name, .listen = "127.0.0.1:0", .http = "127.0.0.1:0"};
}

// A folder that goes when this does.
class TemporaryFolder {
 public:
  static absl::StatusOr<std::unique_ptr<TemporaryFolder>> Make() {
    std::error_code error;
    std::string path = std::filesystem::temp_directory_path(error) / "clamor-store-XXXXXX";
    if (error || mkdtemp(path.data()) == nullptr) {
      return absl::UnavailableError(absl::StrCat("cannot make the folder ", path, "; --store names another"));
    }
    return std::unique_ptr<TemporaryFolder>(new TemporaryFolder(path));
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  explicit TemporaryFolder(std::string path) : path_(std::move(path)) {}
  const std::string path_;
};

class StorePart {
 public:
  static absl::StatusOr<std::unique_ptr<StorePart>> Start(const std::string& folder) {
    auto part = std::unique_ptr<StorePart>(new StorePart());
    CLAMOR_ASSIGN_OR_RETURN(part->store_, retrieval::SuffixStore::Open({.path = folder}));
    part->service_ = std::make_unique<RetrievalService>(
        part->store_.get(),
        RetrievalService::Options{.store_path = folder, .checkpoint_path = folder + ".checkpoints"},
        &part->registry_);
    const ServicePart services[] = {{v1::RetrievalService::service_full_name(), part->service_.get()}};
    CLAMOR_ASSIGN_OR_RETURN(part->server_, Server::Start(Inner("retrieval"), services, &part->registry_,
                                                         [s = part->service_.get()] { s->UpdateGauges(); }));
    part->server_->SetReady(true);
    return part;
  }
  const Server& server() const { return *server_; }

 private:
  StorePart() = default;
  prometheus::Registry registry_;
  std::unique_ptr<retrieval::SuffixStore> store_;
  std::unique_ptr<RetrievalService> service_;
  std::unique_ptr<Server> server_;
};

class WorkerPart {
 public:
  static absl::StatusOr<std::unique_ptr<WorkerPart>> Start(const WorkerOptions& options) {
    auto part = std::unique_ptr<WorkerPart>(new WorkerPart(options.name));
    CLAMOR_ASSIGN_OR_RETURN(part->worker_, Worker::Load(options, &part->metrics_));
    part->service_.Serve(part->worker_.get());
    const ServicePart services[] = {{v1::WorkerService::service_full_name(), &part->service_}};
    CLAMOR_ASSIGN_OR_RETURN(part->server_, Server::Start(Inner("worker"), services, &part->registry_,
                                                         [p = part.get()] { p->service_.UpdateMetrics(); }));
    part->server_->SetReady(true);
    return part;
  }
  const Server& server() const { return *server_; }

 private:
  explicit WorkerPart(const std::string& name) : metrics_(registry_, name, CLAMOR_VERSION) {}
  prometheus::Registry registry_;
  WorkerMetrics metrics_;
  std::unique_ptr<Worker> worker_;
  WorkerService service_{[this] { server_->SetReady(false); }};
  std::unique_ptr<Server> server_;
};

void PrintAddresses(const std::string& model, Gateway& gateway, const Server& worker, const Server& store) {
  const Server& server = gateway.server();
  if (gateway.edge() != nullptr) {
    const std::string& api = gateway.edge()->address();
    std::printf("Serving %s. Open http://%s/ or ask:\n\n", model.c_str(), api.c_str());
    std::printf(
        "  curl http://%s/v1/chat/completions -H 'Content-Type: application/json' \\\n"
        "    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"How many legs do 7 cats have?\"}], "
        "\"temperature\": 0}'\n\n",
        api.c_str());
  } else {
    std::printf("Serving %s.\n\n", model.c_str());
  }
  std::printf("  gRPC     %s      clamor chat --server %s\n", server.grpc_address().c_str(),
              server.grpc_address().c_str());
  std::printf(
      "  metrics  http://%s/metrics (gateway), http://%s/metrics (worker), http://%s/metrics (store)\n",
      server.http_address().c_str(), worker.http_address().c_str(), store.http_address().c_str());
  std::printf("\nCtrl-C stops it.\n");
  std::fflush(stdout);
}

absl::Status Serve(Flags& flags) {
  BlockTerminationSignals();  // the gateway waits for them
  StartLogging("clamor-serve");
  if (!flags.log) spdlog::set_level(spdlog::level::warn);
  if (flags.worker.name.empty()) flags.worker.name = ModelName(flags.worker.model.directory);

  std::unique_ptr<TemporaryFolder> temporary;
  if (flags.store.empty()) {
    CLAMOR_ASSIGN_OR_RETURN(temporary, TemporaryFolder::Make());
    flags.store = temporary->path();
  }
  CLAMOR_ASSIGN_OR_RETURN(const std::unique_ptr<StorePart> store, StorePart::Start(flags.store));
  flags.worker.retrieval = {{.leader = store->server().grpc_address(), .follower = ""}};
  std::fprintf(stderr, "loading %s\n", flags.worker.model.directory.c_str());
  CLAMOR_ASSIGN_OR_RETURN(const std::unique_ptr<WorkerPart> worker, WorkerPart::Start(flags.worker));
  CLAMOR_ASSIGN_OR_RETURN(
      const std::unique_ptr<Gateway> gateway,
      Gateway::Start({.name = "clamor-serve", .listen = flags.listen, .http = flags.http, .grace_seconds = 5},
                     {worker->server().grpc_address()}, flags.gateway));
  PrintAddresses(flags.worker.name, *gateway, worker->server(), store->server());
  gateway->Run();
  std::printf("stopped\n");
  return absl::OkStatus();
}

}  // namespace

void AddServe(CLI::App& app, Run& run) {
  auto flags = std::make_shared<Flags>();
  flags->gateway.api.listen = "127.0.0.1:7702";
  CLI::App* verb =
      app.add_subcommand("serve", "All three services in this process, with an OpenAI API and a page");
  AddModelFlags(*verb, flags->worker.model)->required();
  verb->add_option("--name", flags->worker.name,
                   "What clients call the model; the directory's name if not given")
      ->group("Model");
  verb->add_option("--store", flags->store,
                   "Folder that keeps finished answers for drafts; else a temporary one");
  verb->add_option("--listen", flags->listen, "HOST:PORT of gRPC; port 0 takes a free one")
      ->capture_default_str();
  verb->add_option("--http", flags->http, "HOST:PORT of /metrics, /healthz and /readyz")
      ->capture_default_str();
  verb->add_flag("--log", flags->log, "Log every request on stderr");
  edge::AddEdgeFlags(*verb, flags->gateway.api);
  verb->callback([flags, &run] { run = [flags] { return Serve(*flags); }; });
}

}  // namespace clamor::cli
