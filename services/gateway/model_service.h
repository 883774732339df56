// ModelService: what the fleet knows.
//
// Threads: gRPC calls from many.
// Tested by tests/services/gateway/streaming_test.cc.
#pragma once

#include "clamor/v1/model.grpc.pb.h"
#include "services/gateway/fleet.h"

namespace clamor {

// All models with a ready worker, by name.
v1::ListModelsResponse ReadyModels(const Fleet& fleet);

class ModelService final : public v1::ModelService::CallbackService {
 public:
  explicit ModelService(const Fleet* fleet) : fleet_(fleet) {}  // which must outlive the service

  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override;
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const v1::GetModelInfoRequest* request,
                                         v1::GetModelInfoResponse* response) override;
  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context,
                                      const v1::GetStatusRequest* request,
                                      v1::GetStatusResponse* response) override;

 private:
  const Fleet* const fleet_;
};

}  // namespace clamor
