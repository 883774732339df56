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

absl::Status Check(const retrieval::StoreOptions& store_options) {
  CLAMOR_ASSIGN_OR_RETURN(const auto store, retrieval::SuffixStore::Open(store_options));
  CLAMOR_RETURN_IF_ERROR(store->CheckIntegrity());
  const retrieval::Stats stats = store->GetStats();
  std::cout << stats.documents << " documents, " << stats.tokens << " tokens: sound\n";
  return absl::OkStatus();
}

absl::Status Serve(const ServerOptions& server_options, const retrieval::StoreOptions& store_options,
                   const RetrievalService::Options& service_options) {
  CLAMOR_ASSIGN_OR_RETURN(auto store, retrieval::SuffixStore::Open(store_options));
  CLAMOR_RETURN_IF_ERROR(CheckTls(server_options.tls));
  prometheus::Registry registry;
  Tracer tracer(server_options.tracing, server_options.name, server_options.tls, &registry);
  RetrievalService service(store.get(), service_options, &registry, &tracer);
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
  clamor::RetrievalService::Options service_options;
  bool check = false;
  CLI::App app("Keeps token sequences and answers what followed a context.", server_options.name);
  clamor::AddServerFlags(app, server_options);
  app.add_option("--store", store_options.path, "Folder of the store, made if missing")->required();
  app.add_option("--checkpoints", service_options.checkpoint_path,
                 "Folder for checkpoints (default: STORE.checkpoints)");
  app.add_option("--loads", service_options.load_path,
                 "Folder in which LoadSegments finds folders of segments (default: STORE.loads)");
  app.add_option("--max-bytes-per-tenant", store_options.max_bytes_per_tenant,
                 "Quota; a token takes about 12")
      ->capture_default_str();
  app.add_option("--document-ttl", service_options.document_ttl,
                 "Seconds that a document stays unless Append says otherwise; 0: for ever")
      ->capture_default_str();
  app.add_option("--min-free-bytes", store_options.min_free_bytes, "Of the disk: nothing is added beyond")
      ->capture_default_str();
  app.add_option("--mapped-bytes", store_options.mapped_bytes, "How much of its files is in memory at a time")
      ->capture_default_str();
  app.add_flag("--check", check, "Compare all documents and indexes, say what is wrong, and end");
  if (auto exit_status = clamor::ParseFlags(app, argc, argv)) return *exit_status;
  service_options.store_path = store_options.path;
  if (service_options.checkpoint_path.empty())
    service_options.checkpoint_path = store_options.path + ".checkpoints";
  if (service_options.load_path.empty()) service_options.load_path = store_options.path + ".loads";
  clamor::StartLogging(server_options.name);
  absl::Status status =
      check ? clamor::Check(store_options) : clamor::Serve(server_options, store_options, service_options);
  if (!status.ok()) {
    std::cerr << server_options.name << ": " << status.message() << "\n";
    return 1;
  }
  return 0;
}
