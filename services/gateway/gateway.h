// A whole gateway in one object: what main runs, and what tests run in their own process.
//
// Tested by tests/services/gateway/streaming_test.cc and failure_test.cc.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "prometheus/registry.h"
#include "services/edge/edge.h"
#include "services/gateway/admin_service.h"
#include "services/gateway/admission.h"
#include "services/gateway/edge_core.h"
#include "services/gateway/fleet.h"
#include "services/gateway/gateway_service.h"
#include "services/gateway/model_service.h"
#include "services/gateway/request_metrics.h"
#include "services/gateway/session_service.h"
#include "services/gateway/tenant_usage.h"
#include "services/gateway/worker_discovery.h"
#include "services/security/audit_log.h"
#include "services/security/authenticator.h"
#include "services/server.h"
#include "services/session/session_keeper.h"
#include "services/tracing/tracer.h"

namespace clamor {

class Gateway {
 public:
  // Listens at once; ready when a worker is.
  static absl::StatusOr<std::unique_ptr<Gateway>> Start(const ServerOptions& options,
                                                        const std::vector<std::string>& workers,
                                                        const GatewayLimits& limits);
  ~Gateway();

  // Until SIGTERM, SIGINT or server().Stop().
  void Run();
  Server& server() { return *server_; }
  const edge::Edge* edge() const { return edge_.get(); }  // null: there is none

 private:
  Gateway() = default;
  // The fleet reports to the server and the server's calls hold leases of the fleet: the destructor closes
  // the edge and the server, then the fleet goes, then the server.
  prometheus::Registry registry_;
  GatewayMetrics metrics_{&registry_};
  std::unique_ptr<Tracer> tracer_;
  std::unique_ptr<AuditLog> audit_;
  std::unique_ptr<Authenticator> authenticator_;
  std::unique_ptr<Server> server_;
  TenantUsage usage_;
  std::unique_ptr<Fleet> fleet_;
  std::unique_ptr<WorkerDiscovery> discovery_;
  std::unique_ptr<Admission> admission_;
  std::unique_ptr<SessionKeeper> keeper_;  // null: sessions are off
  std::unique_ptr<GatewayService> generation_;
  std::unique_ptr<SessionService> sessions_;
  std::unique_ptr<ModelService> models_;
  std::unique_ptr<AdminService> admin_;
  std::unique_ptr<EdgeCore> edge_core_;
  std::unique_ptr<edge::Edge> edge_;
};

}  // namespace clamor
