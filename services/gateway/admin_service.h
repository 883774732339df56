// AdminService: what operators ask for. Deleting a tenant is fanned out from here.
//
// Threads: gRPC calls from many.
// Tested by tests/services/gateway/security_test.cc.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "clamor/v1/admin.grpc.pb.h"
#include "services/gateway/fleet.h"
#include "services/gateway/tenant_usage.h"
#include "services/security/audit_log.h"
#include "services/security/authenticator.h"

namespace clamor {

class AdminService final : public v1::AdminService::CallbackService {
 public:
  // Removes what one part of this gateway keeps of a tenant; it must not wait long.
  using Eraser = std::function<absl::Status(const std::string& tenant)>;

  // All must outlive the service.
  AdminService(Fleet* fleet, const Authenticator* authenticator, AuditLog* audit, TenantUsage* usage);

  // Before the server starts.
  void AddEraser(Eraser eraser) { erasers_.push_back(std::move(eraser)); }

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
  const Authenticator* const authenticator_;
  AuditLog* const audit_;
  TenantUsage* const usage_;
  std::vector<Eraser> erasers_;
};

}  // namespace clamor
