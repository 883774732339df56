// SessionService: what the store has, to its tenant.
//
// Threads: gRPC calls from many; the store is waited for on the keeper's.
// Tested by tests/services/gateway/session_test.cc.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "clamor/v1/session.grpc.pb.h"
#include "services/gateway/request_metrics.h"
#include "services/session/session_keeper.h"

namespace clamor {

class SessionService final : public v1::SessionService::CallbackService {
 public:
  // Both outlive the service; without a keeper every call is UNIMPLEMENTED.
  SessionService(SessionKeeper* keeper, GatewayMetrics* metrics) : keeper_(keeper), metrics_(metrics) {}

  grpc::ServerUnaryReactor* CreateSession(grpc::CallbackServerContext* context,
                                          const v1::CreateSessionRequest* request,
                                          v1::CreateSessionResponse* response) override;
  grpc::ServerUnaryReactor* GetSession(grpc::CallbackServerContext* context,
                                       const v1::GetSessionRequest* request,
                                       v1::GetSessionResponse* response) override;
  grpc::ServerUnaryReactor* ListSessions(grpc::CallbackServerContext* context,
                                         const v1::ListSessionsRequest* request,
                                         v1::ListSessionsResponse* response) override;
  grpc::ServerWriteReactor<v1::ExportSessionResponse>* ExportSession(
      grpc::CallbackServerContext* context, const v1::ExportSessionRequest* request) override;
  grpc::ServerUnaryReactor* DeleteSession(grpc::CallbackServerContext* context,
                                          const v1::DeleteSessionRequest* request,
                                          v1::DeleteSessionResponse* response) override;

 private:
  template <class Request, class Response>
  grpc::ServerUnaryReactor* Answer(const char* method, grpc::CallbackServerContext* context,
                                   const Request& request, Response* response);

  // What each call does, on a thread of the keeper.
  absl::Status Do(const std::string& tenant, const v1::CreateSessionRequest& request,
                  v1::CreateSessionResponse* response);
  absl::Status Do(const std::string& tenant, const v1::GetSessionRequest& request,
                  v1::GetSessionResponse* response);
  absl::Status Do(const std::string& tenant, const v1::ListSessionsRequest& request,
                  v1::ListSessionsResponse* response);
  absl::Status Do(const std::string& tenant, const v1::DeleteSessionRequest& request,
                  v1::DeleteSessionResponse* response);

  SessionKeeper* const keeper_;
  GatewayMetrics* const metrics_;
};

// Of a gateway that keeps no sessions.
absl::Status NoSessions();

// 128 bits by chance, in hex.
std::string RandomUid();

}  // namespace clamor
