// The gateway as its HTTP edge sees it: requests go through GatewayService::Prepare and AnswerCalls, as
// gRPC's do.
//
// Threads: any. Tested by tests/integration/openai_test.py.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "services/edge/generation_core.h"
#include "services/gateway/fleet.h"
#include "services/gateway/gateway_service.h"
#include "services/gateway/request_metrics.h"

namespace clamor {

class EdgeCore final : public edge::GenerationCore {
 public:
  // All of them must outlive this.
  EdgeCore(Fleet* fleet, GatewayMetrics* metrics, GatewayService* service,
           std::function<std::shared_ptr<void>()> hold)
      : fleet_(fleet), metrics_(metrics), service_(service), hold_(std::move(hold)) {}

  bool authenticates() const override { return false; }
  absl::StatusOr<std::string> Identify(const edge::Sender& sender, const char* rpc) override;
  absl::StatusOr<std::unique_ptr<edge::Generation>> Prepare(const edge::Caller& caller,
                                                            const v1::ChatRequest& request,
                                                            GenerationListener* listener) override;
  absl::StatusOr<std::unique_ptr<edge::Generation>> Prepare(const edge::Caller& caller,
                                                            const v1::GenerateRequest& request,
                                                            GenerationListener* listener) override;
  void CountRefusal(const edge::Caller& caller, const absl::Status& why) override;
  v1::ListModelsResponse ListModels() override;
  std::shared_ptr<void> Hold() override { return hold_(); }

 private:
  template <class Request>
  absl::StatusOr<std::unique_ptr<edge::Generation>> PrepareAny(const edge::Caller& caller,
                                                               const Request& request,
                                                               GenerationListener* listener);

  Fleet* const fleet_;
  GatewayMetrics* const metrics_;
  GatewayService* const service_;
  const std::function<std::shared_ptr<void>()> hold_;
};

}  // namespace clamor
