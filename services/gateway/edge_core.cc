#include "services/gateway/edge_core.h"

#include <utility>

#include "kernels/status_macros.h"
#include "services/gateway/model_service.h"
#include "services/gateway/relay.h"

namespace clamor {
namespace {

// Counts what goes by, as the relays of gRPC's calls do.
class EdgeGeneration final : public edge::Generation, private GenerationListener {
 public:
  EdgeGeneration(PreparedGeneration generation, RequestRecord record, GenerationListener* listener)
      : model_(generation.model),
        served_(generation.lease.model()),
        listener_(listener),
        record_(std::move(record)),
        call_(Recorded(record_, std::move(generation)), this) {}

  void Start() override { call_->Start(); }
  void Cancel(const absl::Status& why) override { call_->Cancel(why); }
  const std::string& model() const override { return model_; }
  std::shared_ptr<const Tokenizer> tokenizer() const override { return {served_, &served_->tokenizer()}; }

 private:
  void OnStarted(v1::Started started) override {
    started.set_model(model_);
    if (started.choice() == 0) record_.Admitted();
    listener_->OnStarted(std::move(started));
  }
  void OnDelta(v1::Delta delta) override {
    record_.Tokens(delta.choice(), delta.token_ids_size());
    listener_->OnDelta(std::move(delta));
  }
  void OnFinished(v1::Finished finished) override { listener_->OnFinished(std::move(finished)); }
  void OnEnded(const absl::Status& status) override {
    record_.End(status, call_->request().request_id(), call_->request().tenant());
    listener_->OnEnded(status);  // which may end this
  }

  static PreparedGeneration Recorded(RequestRecord& record, PreparedGeneration generation) {
    Record(record, generation);
    return generation;
  }

  const std::string model_;
  const std::shared_ptr<const ServedModel> served_;
  GenerationListener* const listener_;
  RequestRecord record_;  // the events'
  FilteredCalls call_;
};

}  // namespace

absl::StatusOr<std::string> EdgeCore::Identify(const edge::Sender& sender, const char* rpc) {
  CLAMOR_ASSIGN_OR_RETURN(
      Identity identity,
      authenticator_->Identify(
          {.authorization = sender.authorization, .tenant = sender.tenant, .peer = sender.peer}, rpc));
  return std::move(identity.tenant);
}

template <class Request>
absl::StatusOr<std::unique_ptr<edge::Generation>> EdgeCore::PrepareAny(const edge::Caller& caller,
                                                                       const Request& request,
                                                                       GenerationListener* listener) {
  RequestRecord record(metrics_, caller.method, caller.trace);
  auto prepared = service_->Prepare(
      {.tenant = caller.tenant, .request_id = caller.request_id, .streams = caller.streams}, request);
  if (prepared.ok())
    return std::make_unique<EdgeGeneration>(*std::move(prepared), std::move(record), listener);
  record.End(prepared.status(), caller.request_id, caller.tenant);
  return prepared.status();
}

absl::StatusOr<std::unique_ptr<edge::Generation>> EdgeCore::Prepare(const edge::Caller& caller,
                                                                    const v1::ChatRequest& request,
                                                                    GenerationListener* listener) {
  return PrepareAny(caller, request, listener);
}

absl::StatusOr<std::unique_ptr<edge::Generation>> EdgeCore::Prepare(const edge::Caller& caller,
                                                                    const v1::GenerateRequest& request,
                                                                    GenerationListener* listener) {
  return PrepareAny(caller, request, listener);
}

void EdgeCore::CountRefusal(const edge::Caller& caller, const absl::Status& why) {
  RequestRecord(metrics_, caller.method, caller.trace)
      .End(why, caller.request_id, caller.tenant.empty() ? "-" : caller.tenant);
}

v1::ListModelsResponse EdgeCore::ListModels() { return ReadyModels(*fleet_); }

}  // namespace clamor
