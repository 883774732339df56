// Follows grpc.health.v1 of one server for as long as the object lives.
//
// Tested by tests/services/gateway/failure_test.cc.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/synchronization/notification.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"

namespace clamor {

class HealthWatch final : private grpc::ClientReadReactor<grpc::health::v1::HealthCheckResponse> {
 public:
  // `on_serving` hears every change, one at a time, on gRPC's threads; `on_lost` comes once, last, if the
  // watch ends by itself (the connection broke). Neither is called after the destructor has returned.
  HealthWatch(const std::shared_ptr<grpc::Channel>& channel, const std::string& service,
              std::function<void(bool)> on_serving, std::function<void()> on_lost);
  ~HealthWatch() override;

 private:
  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

  const std::function<void(bool)> on_serving_;
  const std::function<void()> on_lost_;
  const std::unique_ptr<grpc::health::v1::Health::Stub> stub_;
  grpc::health::v1::HealthCheckRequest request_;
  grpc::health::v1::HealthCheckResponse response_;
  grpc::ClientContext context_;
  absl::Notification done_;
};

}  // namespace clamor
