// AdminService: what operators ask for. Deleting a tenant is fanned out from here.
//
// Threads: gRPC calls from many.
// Tested by tests/services/gateway/security_test.cc.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "clamor/v1/admin.grpc.pb.h"
#include "services/gateway/fleet.h"
#include "services/gateway/tenant_usage.h"
#include "services/security/audit_log.h"
#include "services/security/authenticator.h"
#include "services/session/session_keeper.h"

namespace clamor {

class AdminService final : public v1::AdminService::CallbackService {
 public:
  // All must outlive the service; null `keeper`: there are no sessions.
  AdminService(Fleet* fleet, SessionKeeper* keeper, const Authenticator* authenticator, AuditLog* audit,
               TenantUsage* usage);

  grpc::ServerUnaryReactor* DeleteTenant(grpc::CallbackServerContext* context,
                                         const v1::AdminServiceDeleteTenantRequest* request,
                                         v1::AdminServiceDeleteTenantResponse* response) override;
  grpc::ServerUnaryReactor* GetUsage(grpc::CallbackServerContext* context, const v1::GetUsageRequest* request,
                                     v1::GetUsageResponse* response) override;
  grpc::ServerUnaryReactor* SetWorkerHold(grpc::CallbackServerContext* context,
                                          const v1::SetWorkerHoldRequest* request,
                                          v1::SetWorkerHoldResponse* response) override;

 private:
  class Deletion;
  // Lets an operator through and writes the call down.
  absl::Status Allow(const grpc::CallbackServerContext& context, const char* method,
                     const std::string& object) const;

  Fleet* const fleet_;
  SessionKeeper* const keeper_;
  const Authenticator* const authenticator_;
  AuditLog* const audit_;
  TenantUsage* const usage_;
};

}  // namespace clamor
