#include "services/gateway/health_watch.h"

#include <utility>

namespace clamor {

HealthWatch::HealthWatch(const std::shared_ptr<grpc::Channel>& channel, const std::string& service,
                         std::function<void(bool)> on_serving, std::function<void()> on_lost)
    : on_serving_(std::move(on_serving)),
      on_lost_(std::move(on_lost)),
      stub_(grpc::health::v1::Health::NewStub(channel)) {
  request_.set_service(service);
  stub_->async()->Watch(&context_, &request_, this);
  StartRead(&response_);
  StartCall();
}

HealthWatch::~HealthWatch() {
  context_.TryCancel();
  done_.WaitForNotification();
}

void HealthWatch::OnReadDone(bool ok) {
  if (!ok) return;
  on_serving_(response_.status() == grpc::health::v1::HealthCheckResponse::SERVING);
  StartRead(&response_);
}

void HealthWatch::OnDone(const grpc::Status&) {
  on_lost_();
  done_.Notify();
}

}  // namespace clamor
