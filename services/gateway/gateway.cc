#include "services/gateway/gateway.h"

#include <algorithm>

#include "kernels/status_macros.h"

namespace clamor {

absl::StatusOr<std::unique_ptr<Gateway>> Gateway::Start(const ServerOptions& options,
                                                        const std::vector<std::string>& workers,
                                                        const GatewayLimits& limits) {
  std::unique_ptr<Gateway> gateway(new Gateway());
  CLAMOR_RETURN_IF_ERROR(CheckTls(limits.fleet.tls));
  CLAMOR_RETURN_IF_ERROR(CheckTls(options.tls));
  CLAMOR_RETURN_IF_ERROR(
      CheckEvenness(limits.evenness, std::min(limits.max_pending_bytes, limits.api.max_pending_bytes)));
  CLAMOR_ASSIGN_OR_RETURN(gateway->audit_, AuditLog::Open(limits.audit_log));
  gateway->authenticator_ = std::make_unique<Authenticator>();
  if (!limits.api_keys.empty()) {
    CLAMOR_ASSIGN_OR_RETURN(gateway->authenticator_,
                            Authenticator::Open(limits.api_keys, gateway->audit_.get()));
  }
  gateway->tracer_ =
      std::make_unique<Tracer>(options.tracing, options.name, options.tls, &gateway->registry_);
  gateway->metrics_.tracer = gateway->tracer_.get();
  const Authenticator* authenticator = gateway->authenticator_.get();
  GatewayMetrics* metrics = &gateway->metrics_;
  Fleet* fleet = (gateway->fleet_ = std::make_unique<Fleet>(std::vector<std::string>(), limits.fleet)).get();
  CLAMOR_ASSIGN_OR_RETURN(gateway->discovery_, WorkerDiscovery::Start(workers, limits.discovery, fleet));
  gateway->admission_ =
      std::make_unique<Admission>(limits.admission, authenticator, [fleet] { return fleet->Snapshots(); });
  if (!limits.sessions.store.location.empty()) {
    CLAMOR_ASSIGN_OR_RETURN(gateway->keeper_, SessionKeeper::Open(limits.sessions));
  }
  SessionKeeper* keeper = gateway->keeper_.get();
  gateway->generation_ = std::make_unique<GatewayService>(
      fleet, keeper, metrics, authenticator, gateway->admission_.get(), &gateway->usage_, limits);
  gateway->sessions_ = std::make_unique<SessionService>(keeper, metrics, authenticator);
  gateway->models_ = std::make_unique<ModelService>(fleet, authenticator);
  gateway->admin_ =
      std::make_unique<AdminService>(fleet, keeper, authenticator, gateway->audit_.get(), &gateway->usage_);
  const ServicePart parts[] = {{v1::GenerationService::service_full_name(), gateway->generation_.get()},
                               {v1::SessionService::service_full_name(), gateway->sessions_.get()},
                               {v1::ModelService::service_full_name(), gateway->models_.get()},
                               {v1::AdminService::service_full_name(), gateway->admin_.get()}};
  auto before_scrape = [g = gateway.get()] {
    g->metrics_.UpdateWorkers(g->fleet_->Snapshots());
    g->metrics_.UpdateQueues(*g->admission_);
    if (g->keeper_ == nullptr) return;
    if (const auto sessions = g->keeper_->store().CountSessions(); sessions.ok())
      g->metrics_.sessions.Set(static_cast<double>(*sessions));
  };
  ServerOptions server_options = options;
  if (!limits.api.listen.empty()) {
    edge::EdgeOptions api = limits.api;
    api.pad_bytes = limits.evenness.pad_bytes;
    CLAMOR_ASSIGN_OR_RETURN(gateway->edge_, edge::Edge::Bind(api));
    server_options.api = gateway->edge_->address();
  }
  CLAMOR_ASSIGN_OR_RETURN(gateway->server_,
                          Server::Start(server_options, parts, &gateway->registry_, before_scrape));
  Server* server = gateway->server_.get();
  gateway->edge_core_ = std::make_unique<EdgeCore>(fleet, metrics, authenticator, gateway->generation_.get(),
                                                   [server] { return server->Hold(); });
  if (gateway->edge_ != nullptr) gateway->edge_->Serve(gateway->edge_core_.get());
  fleet->Connect([server](bool ready) { server->SetReady(ready); });
  return gateway;
}

Gateway::~Gateway() {
  if (edge_ != nullptr) edge_->Close();
  if (server_ != nullptr) server_->Close();
}

void Gateway::Run() {
  server_->Run([this] { generation_->Drain(); });
}

}  // namespace clamor
