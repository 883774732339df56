#include "services/gateway/model_service.h"

#include <map>
#include <memory>
#include <string>

#include "services/gateway/request_limits.h"
#include "services/rpc_error.h"

namespace clamor {
namespace {

grpc::ServerUnaryReactor* Finish(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

}  // namespace

v1::ListModelsResponse ReadyModels(const Fleet& fleet) {
  std::map<std::string, std::shared_ptr<const ServedModel>> models;
  for (const WorkerSnapshot& worker : fleet.Snapshots()) {
    if (worker.state == v1::WORKER_STATE_READY) models.emplace(worker.model->info().name(), worker.model);
  }
  v1::ListModelsResponse response;
  for (const auto& [name, model] : models) *response.add_models() = model->info();
  return response;
}

grpc::ServerUnaryReactor* ModelService::ListModels(grpc::CallbackServerContext* context,
                                                   const v1::ListModelsRequest*,
                                                   v1::ListModelsResponse* response) {
  *response = ReadyModels(*fleet_);
  return Finish(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* ModelService::GetModelInfo(grpc::CallbackServerContext* context,
                                                     const v1::GetModelInfoRequest* request,
                                                     v1::GetModelInfoResponse* response) {
  if (absl::Status status = CheckModelName(request->model()); !status.ok()) return Finish(context, status);
  auto model = fleet_->FindModel(request->model());
  if (model.ok()) *response->mutable_model() = (*model)->info();
  return Finish(context, model.status());
}

grpc::ServerUnaryReactor* ModelService::GetStatus(grpc::CallbackServerContext* context,
                                                  const v1::GetStatusRequest*,
                                                  v1::GetStatusResponse* response) {
  uint32_t streams = 0;
  for (const WorkerSnapshot& worker : fleet_->Snapshots()) {
    v1::WorkerStatus& status = *response->add_workers();
    status.set_address(worker.address);
    status.set_state(worker.state);
    if (worker.model != nullptr) *status.mutable_model() = worker.model->info();
    *status.mutable_load() = worker.load;
    streams += static_cast<uint32_t>(worker.streams);
  }
  response->set_streams_open(streams);
  return Finish(context, absl::OkStatus());
}

}  // namespace clamor
