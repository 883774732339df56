#include <iostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "clamor/v1/retrieval.grpc.pb.h"
#include "kernels/status_macros.h"
#include "prometheus/registry.h"
#include "retrieval/suffix_store.h"
#include "services/flags.h"
#include "services/log.h"
#include "services/retrieval/retrieval_service.h"
#include "services/server.h"

namespace clamor {
namespace {

absl::Status Serve(const ServerOptions& server_options, const retrieval::StoreOptions& store_options,
                   const std::string& checkpoints) {
  CLAMOR_ASSIGN_OR_RETURN(auto store, retrieval::SuffixStore::Open(store_options));
  prometheus::Registry registry;
  RetrievalService service(store.get(), {.store_path = store_options.path, .checkpoint_path = checkpoints},
                           &registry);
  const std::vector<ServicePart> parts = {{v1::RetrievalService::service_full_name(), &service}};
  CLAMOR_ASSIGN_OR_RETURN(auto server,
                          Server::Start(server_options, parts, &registry, [&] { service.UpdateGauges(); }));
  server->SetReady(true);
  server->Run([&] { service.Drain(); });
  return absl::OkStatus();
}

}  // namespace
}  // namespace clamor

int main(int argc, char** argv) {
  clamor::BlockTerminationSignals();
  clamor::ServerOptions server_options{
      .name = "clamor-retrieval", .listen = "127.0.0.1:7720", .http = "127.0.0.1:7721"};
  clamor::retrieval::StoreOptions store_options;
  std::string checkpoints;
  CLI::App app("Keeps token sequences and answers what followed a context.", server_options.name);
  clamor::AddServerFlags(app, server_options);
  app.add_option("--store", store_options.path, "Folder of the store, made if missing")->required();
  app.add_option("--checkpoints", checkpoints, "Folder for checkpoints (default: STORE.checkpoints)");
  app.add_option("--max-tokens-per-tenant", store_options.max_tokens_per_tenant, "Quota")
      ->capture_default_str();
  if (auto exit_status = clamor::ParseFlags(app, argc, argv)) return *exit_status;
  if (checkpoints.empty()) checkpoints = store_options.path + ".checkpoints";
  clamor::StartLogging(server_options.name);
  if (absl::Status status = clamor::Serve(server_options, store_options, checkpoints); !status.ok()) {
    std::cerr << server_options.name << ": " << status.message() << "\n";
    return 1;
  }
  return 0;
}
