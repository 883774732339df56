#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "clamor/v1/retrieval.grpc.pb.h"
#include "kernels/status_macros.h"
#include "prometheus/registry.h"
#include "retrieval/suffix_store.h"
#include "services/faults/disk.h"
#include "services/faults/faults.h"
#include "services/flags.h"
#include "services/log.h"
#include "services/retrieval/follower.h"
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

// `leader`: HOST:PORT of the server to follow, empty: none.
absl::Status Serve(const ServerOptions& server_options, const retrieval::StoreOptions& store_options,
                   const RetrievalService::Options& service_options, const std::string& leader) {
  CLAMOR_ASSIGN_OR_RETURN(auto store, retrieval::SuffixStore::Open(store_options));
  CLAMOR_RETURN_IF_ERROR(CheckTls(server_options.tls));
  prometheus::Registry registry;
  Tracer tracer(server_options.tracing, server_options.name, server_options.tls, &registry);
  RetrievalService service(store.get(), service_options, &registry, &tracer);
  const std::vector<ServicePart> parts = {{v1::RetrievalService::service_full_name(), &service}};
  std::unique_ptr<Follower> follower;
  if (!leader.empty())
    follower =
        std::make_unique<Follower>(store.get(), Follower::ChannelTo(leader, server_options.tls), &registry);
  CLAMOR_ASSIGN_OR_RETURN(auto server, Server::Start(server_options, parts, &registry, [&] {
                            service.UpdateGauges();
                            if (follower != nullptr) follower->UpdateGauges();
                          }));
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
  std::string leader;
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
  app.add_option("--read-ahead-bytes", store_options.read_ahead_bytes,
                 "Of its files, read at the start so that lookups find them in the page cache")
      ->capture_default_str();
  app.add_option("--follow", leader,
                 "HOST:PORT of a server whose documents this one keeps too; only that one takes in new ones");
  app.add_flag("--check", check, "Compare all documents and indexes, say what is wrong, and end");
  if (auto exit_status = clamor::ParseFlags(app, argc, argv)) return *exit_status;
  service_options.follower = !leader.empty();
  store_options.env = clamor::faults::Disk();
  store_options.clock = [] { return static_cast<uint64_t>(absl::ToUnixSeconds(clamor::faults::Now())); };
  service_options.store_path = store_options.path;
  if (service_options.checkpoint_path.empty())
    service_options.checkpoint_path = store_options.path + ".checkpoints";
  if (service_options.load_path.empty()) service_options.load_path = store_options.path + ".loads";
  clamor::StartLogging(server_options.name);
  absl::Status status = check ? clamor::Check(store_options)
                              : clamor::Serve(server_options, store_options, service_options, leader);
  if (!status.ok()) {
    std::cerr << server_options.name << ": " << status.message() << "\n";
    return 1;
  }
  return 0;
}
