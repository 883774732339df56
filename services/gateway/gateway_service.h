// GenerationService for clients: checks a request, turns text into ids, picks a worker, relays. Read Prepare
// first.
//
// Threads: gRPC calls from many.
// Tested by tests/services/gateway/streaming_test.cc.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "clamor/v1/generation.grpc.pb.h"
#include "services/edge/edge_options.h"
#include "services/gateway/admission.h"
#include "services/gateway/even_pace.h"
#include "services/gateway/fleet.h"
#include "services/gateway/relay.h"
#include "services/gateway/request_metrics.h"
#include "services/gateway/session_turn.h"
#include "services/gateway/tenant_usage.h"
#include "services/gateway/worker_discovery.h"
#include "services/security/authenticator.h"
#include "services/session/session_keeper.h"

namespace clamor {

struct GatewayLimits {
  absl::Duration max_request_time =
      absl::Hours(1);                  // for clients without a deadline, and those with a later one
  size_t max_pending_bytes = 1 << 20;  // of a stream whose client reads too slowly
  Evenness evenness;                   // of streams
  std::string api_keys;                // file of services/security/key_file.h; empty: everybody is let in
  std::string audit_log;               // file; empty: the log
  FleetOptions fleet;
  WorkerDiscoveryOptions discovery;
  AdmissionOptions admission;
  KeeperOptions sessions;
  edge::EdgeOptions api;  // the HTTP edge; not there if it listens nowhere
};

// Who asks for a generation, known by now.
struct GenerationCaller {
  std::string tenant;
  std::string request_id;  // empty: a new one
  absl::Time deadline = absl::InfiniteFuture();
  bool streams = false;  // though the request's own type does not say so
};

class GatewayService final : public v1::GenerationService::CallbackService {
 public:
  // All but the limits must outlive the service; without a `keeper` there are no sessions, and no stream can
  // be resumed.
  GatewayService(Fleet* fleet, SessionKeeper* keeper, GatewayMetrics* metrics,
                 const Authenticator* authenticator, Admission* admission, TenantUsage* usage,
                 const GatewayLimits& limits);

  // From now on generations are refused with DRAINING; what runs goes on.
  void Drain() { draining_ = true; }

  // Everything that can refuse a request before a worker hears of it. Of a ChatRequest, a GenerateRequest or
  // their streams'; waits for the store if it is of a session.
  template <class Request>
  absl::StatusOr<PreparedGeneration> Prepare(const GenerationCaller& caller, const Request& request);

  grpc::ServerUnaryReactor* Generate(grpc::CallbackServerContext* context, const v1::GenerateRequest* request,
                                     v1::GenerateResponse* response) override;
  grpc::ServerWriteReactor<v1::StreamGenerateResponse>* StreamGenerate(
      grpc::CallbackServerContext* context, const v1::StreamGenerateRequest* request) override;
  grpc::ServerUnaryReactor* Chat(grpc::CallbackServerContext* context, const v1::ChatRequest* request,
                                 v1::ChatResponse* response) override;
  grpc::ServerWriteReactor<v1::StreamChatResponse>* StreamChat(grpc::CallbackServerContext* context,
                                                               const v1::StreamChatRequest* request) override;
  grpc::ServerWriteReactor<v1::ResumeStreamResponse>* ResumeStream(
      grpc::CallbackServerContext* context, const v1::ResumeStreamRequest* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context, const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;

 private:
  template <class Request>
  absl::StatusOr<PreparedGeneration> Prepare(const char* method, const grpc::CallbackServerContext& context,
                                             const Request& request);
  // Likewise of a stream that is given again; waits for the store.
  absl::StatusOr<PreparedGeneration> PrepareAgain(const grpc::CallbackServerContext& context,
                                                  const v1::ResumeStreamRequest& request);
  // Begins `relay` with what `prepare` returns, on a thread that may wait for the store.
  template <class Relay, class Prepared>
  void BeginAtStore(const char* method, const grpc::CallbackServerContext& context, Relay* relay,
                    Prepared prepare);
  CallContext ContextOf(absl::Time deadline) const;
  // Has a stream go on at an even pace, if it shall, from where its client has it.
  void AddPace(PreparedGeneration& generation, const AnswerPlace& begin) const;
  template <class Request, class Response>
  grpc::ServerUnaryReactor* RelayUnary(const char* method, grpc::CallbackServerContext* context,
                                       const Request& request, Response* response);
  template <class Response, class Request>
  grpc::ServerWriteReactor<Response>* RelayStream(const char* method, grpc::CallbackServerContext* context,
                                                  const Request& request);
  absl::Status ToTokens(const grpc::CallbackServerContext& context, const v1::TokenizeRequest& request,
                        v1::TokenizeResponse* response);
  absl::Status ToText(const grpc::CallbackServerContext& context, const v1::DetokenizeRequest& request,
                      v1::DetokenizeResponse* response);

  Fleet* const fleet_;
  SessionKeeper* const keeper_;  // null: none
  GatewayMetrics* const metrics_;
  const Authenticator* const authenticator_;
  Admission* const admission_;
  TenantUsage* const usage_;
  const GatewayLimits limits_;
  std::atomic<bool> draining_ = false;
};

}  // namespace clamor
