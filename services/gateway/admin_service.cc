#include "services/gateway/admin_service.h"

#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "kernels/status_macros.h"
#include "services/rpc_error.h"
#include "services/tenant.h"

namespace clamor {
namespace {

constexpr absl::Duration kDeletionTime = absl::Minutes(5);  // of one worker and its store
constexpr uint32_t kPage = 1000;

grpc::ServerUnaryReactor* Finish(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

void Tell(const std::string& place, const absl::Status& status, v1::DeletionPlace* told) {
  told->set_place(place);
  told->set_deleted(status.ok());
  told->set_error(std::string(MessageOf(status)));
}

}  // namespace

AdminService::AdminService(Fleet* fleet, SessionKeeper* keeper, const Authenticator* authenticator,
                           AuditLog* audit, TenantUsage* usage)
    : fleet_(fleet), keeper_(keeper), authenticator_(authenticator), audit_(audit), usage_(usage) {}

absl::Status AdminService::Allow(const grpc::CallbackServerContext& context, const char* method,
                                 const std::string& object) const {
  const Credentials credentials = CredentialsOf(context);
  CLAMOR_ASSIGN_OR_RETURN(const Identity caller, authenticator_->Identify(credentials, method));
  audit_->Record("operation",
                 {{"method", method}, {"object", object}, {"by", caller.tenant}, {"peer", credentials.peer}});
  return absl::OkStatus();
}

// One DeleteTenant: a call to every worker, whether it is ready or not; when the last has ended, and with it
// the tenant's requests, what this gateway keeps.
class AdminService::Deletion final : public grpc::ServerUnaryReactor {
 public:
  Deletion(AdminService* service, const std::string& tenant, v1::AdminServiceDeleteTenantResponse* response)
      : service_(*service), tenant_(tenant), response_(response) {
    absl::MutexLock lock(&mu_);
    service_.fleet_->ForEach([this](WorkerChannel& worker) { calls_.emplace_back(new Call(&worker)); });
    left_ = calls_.size() + 1;
    for (const auto& call : calls_) {
      call->request.set_tenant(tenant);
      call->context.set_deadline(absl::ToChronoTime(absl::Now() + kDeletionTime));
      call->lease.worker().stub().async()->DeleteTenant(
          &call->context, &call->request, &call->response,
          [this, call = call.get()](grpc::Status status) { OnDeleted(*call, status); });
    }
  }
  void Begun() { CountDown(); }

 private:
  struct Call {
    explicit Call(WorkerChannel* worker) : lease(worker) {}
    WorkerLease lease;  // keeps the worker
    grpc::ClientContext context;
    v1::WorkerServiceDeleteTenantRequest request;
    v1::WorkerServiceDeleteTenantResponse response;
  };

  void OnDeleted(const Call& call, const grpc::Status& status) {
    {
      absl::MutexLock lock(&mu_);
      v1::DeletionPlace* told = response_->add_places();
      Tell(call.lease.worker().address(), FromGrpc(status), told);
      told->set_documents(call.response.documents());
    }
    CountDown();
  }

  void CountDown() {
    {
      absl::MutexLock lock(&mu_);
      if (--left_ > 0) return;
    }
    service_.fleet_->ForgetTenant(tenant_);
    service_.usage_->Forget(tenant_);
    if (service_.keeper_ == nullptr) return Conclude(absl::OkStatus());
    const absl::Status waits = service_.keeper_->Run(
        [this] { Conclude(service_.keeper_->store().EraseTenant(tenant_)); });  // which takes its time
    if (!waits.ok()) Conclude(waits);
  }

  void Conclude(const absl::Status& here) {
    Tell("gateway", here, response_->add_places());
    bool complete = true;
    for (const v1::DeletionPlace& place : response_->places()) complete &= place.deleted();
    response_->set_complete(complete);
    service_.audit_->Record("tenant_deleted",
                            {{"tenant", tenant_}, {"complete", complete ? "true" : "false"}});
    Finish(grpc::Status::OK);
  }

  void OnCancel() override {
    absl::MutexLock lock(&mu_);
    for (const auto& call : calls_) call->context.TryCancel();
  }

  void OnDone() override { delete this; }

  AdminService& service_;
  const std::string tenant_;
  v1::AdminServiceDeleteTenantResponse* const response_;
  absl::Mutex mu_;
  std::vector<std::unique_ptr<Call>> calls_ ABSL_GUARDED_BY(mu_);
  size_t left_ ABSL_GUARDED_BY(mu_) = 0;  // calls, and the beginning
};

grpc::ServerUnaryReactor* AdminService::DeleteTenant(grpc::CallbackServerContext* context,
                                                     const v1::AdminServiceDeleteTenantRequest* request,
                                                     v1::AdminServiceDeleteTenantResponse* response) {
  absl::Status status = CheckTenant("tenant", request->tenant());
  if (status.ok()) status = Allow(*context, "DeleteTenant", request->tenant());
  if (!status.ok()) return clamor::Finish(context, status);
  auto* deletion = new Deletion(this, request->tenant(), response);
  deletion->Begun();
  return deletion;
}

grpc::ServerUnaryReactor* AdminService::GetUsage(grpc::CallbackServerContext* context,
                                                 const v1::GetUsageRequest* request,
                                                 v1::GetUsageResponse* response) {
  if (absl::Status status = Allow(*context, "GetUsage", "-"); !status.ok()) {
    return clamor::Finish(context, status);
  }
  if (request->page_size() > kPage) {
    return clamor::Finish(context, InvalidField("page_size", absl::StrCat("is ", request->page_size(),
                                                                          ", must be at most ", kPage)));
  }
  const size_t size = request->page_size() > 0 ? request->page_size() : kPage;
  const auto page = usage_->Get(request->page_token(), size + 1);
  for (const auto& [tenant, numbers] : page) {
    if (static_cast<size_t>(response->tenants_size()) == size) {
      response->set_next_page_token(response->tenants(static_cast<int>(size) - 1).tenant());
      break;
    }
    v1::TenantUsage& told = *response->add_tenants();
    told.set_tenant(tenant);
    told.set_requests(numbers.requests);
    told.set_prompt_tokens(numbers.prompt_tokens);
    told.set_completion_tokens(numbers.completion_tokens);
  }
  return clamor::Finish(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* AdminService::SetWorkerHold(grpc::CallbackServerContext* context,
                                                      const v1::SetWorkerHoldRequest* request,
                                                      v1::SetWorkerHoldResponse*) {
  Hold hold = Hold::kNone;
  absl::Status status;
  switch (request->hold()) {
    case v1::WORKER_HOLD_NONE:
      break;
    case v1::WORKER_HOLD_CORDONED:
      hold = Hold::kCordoned;
      break;
    case v1::WORKER_HOLD_DRAINED:
      hold = Hold::kDrained;
      break;
    default:
      status =
          InvalidField("hold", absl::StrCat("is ", request->hold(), ", must be none, cordoned or drained"));
  }
  if (status.ok()) {
    status = Allow(*context, "SetWorkerHold",
                   absl::StrCat(request->address(), " ", v1::WorkerHold_Name(request->hold())));
  }
  if (status.ok()) status = fleet_->SetHold(request->address(), hold);
  return clamor::Finish(context, status);
}

}  // namespace clamor
