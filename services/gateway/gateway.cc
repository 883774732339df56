#include "services/gateway/gateway.h"

#include "kernels/status_macros.h"

namespace clamor {

absl::StatusOr<std::unique_ptr<Gateway>> Gateway::Start(const ServerOptions& options,
                                                        const std::vector<std::string>& workers,
                                                        const GatewayLimits& limits) {
  std::unique_ptr<Gateway> gateway(new Gateway());
  gateway->fleet_ = std::make_unique<Fleet>(workers, limits.fleet);
  if (!limits.sessions.store.location.empty()) {
    CLAMOR_ASSIGN_OR_RETURN(gateway->keeper_, SessionKeeper::Open(limits.sessions));
  }
  gateway->generation_ = std::make_unique<GatewayService>(gateway->fleet_.get(), gateway->keeper_.get(),
                                                          &gateway->metrics_, limits);
  gateway->sessions_ = std::make_unique<SessionService>(gateway->keeper_.get(), &gateway->metrics_);
  gateway->models_ = std::make_unique<ModelService>(gateway->fleet_.get());
  const ServicePart parts[] = {{v1::GenerationService::service_full_name(), gateway->generation_.get()},
                               {v1::SessionService::service_full_name(), gateway->sessions_.get()},
                               {v1::ModelService::service_full_name(), gateway->models_.get()}};
  auto before_scrape = [g = gateway.get()] {
    g->metrics_.UpdateWorkers(g->fleet_->Snapshots());
    if (g->keeper_ == nullptr) return;
    if (const auto sessions = g->keeper_->store().CountSessions(); sessions.ok())
      g->metrics_.sessions.Set(static_cast<double>(*sessions));
  };
  ServerOptions server_options = options;
  if (!limits.api.listen.empty()) {
    CLAMOR_ASSIGN_OR_RETURN(gateway->edge_, edge::Edge::Bind(limits.api));
    server_options.api = gateway->edge_->address();
  }
  CLAMOR_ASSIGN_OR_RETURN(gateway->server_,
                          Server::Start(server_options, parts, &gateway->registry_, before_scrape));
  gateway->edge_core_ =
      std::make_unique<EdgeCore>(gateway->fleet_.get(), &gateway->metrics_, gateway->generation_.get(),
                                 [server = gateway->server_.get()] { return server->Hold(); });
  if (gateway->edge_ != nullptr) gateway->edge_->Serve(gateway->edge_core_.get());
  gateway->fleet_->Connect([server = gateway->server_.get()](bool ready) { server->SetReady(ready); });
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
