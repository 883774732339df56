#include "services/gateway/session_service.h"

#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "kernels/status_macros.h"
#include "services/gateway/request_limits.h"
#include "services/gateway/session_limits.h"
#include "services/rpc_error.h"

namespace clamor {
namespace {

constexpr uint32_t kDefaultPage = 100, kMaxPage = 1000;
constexpr uint64_t kExportedAtOnce = 16;  // turns in memory

// Writes a session and its turns, some read at a time; only one of reading and writing goes on.
class Export final : public grpc::ServerWriteReactor<v1::ExportSessionResponse> {
 public:
  Export(SessionKeeper* keeper, RequestRecord record) : keeper_(keeper), record_(std::move(record)) {}

  void Begin(absl::StatusOr<Identity> caller, const std::string& name) {
    absl::Status status = caller.status();
    if (status.ok()) tenant_ = std::move(caller->tenant);
    name_ = name;
    if (status.ok()) status = keeper_ == nullptr ? NoSessions() : CheckSessionName("name", name);
    if (!status.ok()) return End(status);
    ReadMore();
  }

 private:
  void ReadMore() {
    if (const absl::Status waits = keeper_->Run([this] { Read(); }); !waits.ok()) End(waits);
  }

  void Read() {
    auto read = keeper_->store().Read(tenant_, name_, next_, kExportedAtOnce);
    if (!read.ok()) return End(read.status());
    const bool first = session_.uid().empty();
    if (!first && read->session.uid() != session_.uid()) return End(SessionNotFound(name_));
    turns_ = std::move(read->turns);
    if (first) {
      session_ = std::move(read->session);
      *response_.mutable_session() = session_;
      return StartWrite(&response_);
    }
    WriteTurn();
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return End(absl::CancelledError("the client cancelled"));
    WriteTurn();
  }

  void WriteTurn() {
    if (next_ >= session_.version()) return End(absl::OkStatus());
    if (written_ == turns_.size()) {
      written_ = 0;
      turns_.clear();
      return ReadMore();
    }
    *response_.mutable_turn() = std::move(turns_[written_++]);
    ++next_;
    StartWrite(&response_);
  }

  void End(const absl::Status& status) {
    record_.End(status, "-", tenant_);
    Finish(ToGrpc(status));
  }

  void OnDone() override { delete this; }

  SessionKeeper* const keeper_;
  RequestRecord record_;
  std::string tenant_ = "-", name_;
  v1::Session session_;  // as it was when it was first read
  std::vector<v1::Turn> turns_;
  size_t written_ = 0;  // of turns_
  uint64_t next_ = 0;
  v1::ExportSessionResponse response_;  // gRPC's while it writes
};

}  // namespace

absl::Status NoSessions() {
  return absl::UnimplementedError("this gateway keeps no sessions: start it with --sessions");
}

std::string RandomUid() {
  thread_local std::random_device device;
  return absl::StrFormat("%08x%08x%08x%08x", device(), device(), device(), device());
}

template <class Request, class Response>
grpc::ServerUnaryReactor* SessionService::Answer(const char* method, grpc::CallbackServerContext* context,
                                                 const Request& request, Response* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  auto record = std::make_shared<RequestRecord>(metrics_, method, TraceContextOf(*context));
  auto end = [reactor, record](const absl::Status& status, const std::string& tenant) {
    record->End(status, "-", tenant);
    reactor->Finish(ToGrpc(status));
  };
  const auto caller = authenticator_->Identify(CredentialsOf(*context), method);
  absl::Status refused = caller.status();
  if (refused.ok() && keeper_ == nullptr) refused = NoSessions();
  if (refused.ok()) {
    refused = keeper_->Run([this, end, tenant = caller->tenant, &request, response] {
      end(Do(tenant, request, response), tenant);
    });
  }
  if (!refused.ok()) end(refused, "-");
  return reactor;
}

absl::Status SessionService::Do(const std::string& tenant, const v1::CreateSessionRequest& request,
                                v1::CreateSessionResponse* response) {
  v1::Session session;
  session.set_uid(RandomUid());
  session.set_name(request.name().empty() ? RandomUid() : request.name());
  CLAMOR_RETURN_IF_ERROR(CheckSessionName("name", session.name()));
  CLAMOR_ASSIGN_OR_RETURN(*session.mutable_ttl(), SessionTtl(request, keeper_->options().session_ttl));
  v1::Turn opening;
  if (!request.messages().empty()) {
    CLAMOR_RETURN_IF_ERROR(CheckMessages("messages", request.messages()));
    CLAMOR_RETURN_IF_ERROR(CheckTurnMessages(request.messages()));
    CLAMOR_RETURN_IF_ERROR(CheckRoom(session, request.messages()));
    *opening.mutable_messages() = request.messages();
    *opening.mutable_create_time() = ToTimestamp(absl::ToUnixMillis(absl::Now()));
  }
  CLAMOR_ASSIGN_OR_RETURN(*response->mutable_session(), keeper_->store().Create(tenant, session, opening));
  return absl::OkStatus();
}

absl::Status SessionService::Do(const std::string& tenant, const v1::GetSessionRequest& request,
                                v1::GetSessionResponse* response) {
  CLAMOR_RETURN_IF_ERROR(CheckSessionName("name", request.name()));
  CLAMOR_ASSIGN_OR_RETURN(*response->mutable_session(), keeper_->store().Find(tenant, request.name()));
  return absl::OkStatus();
}

absl::Status SessionService::Do(const std::string& tenant, const v1::ListSessionsRequest& request,
                                v1::ListSessionsResponse* response) {
  const uint32_t size = request.has_page_size() ? request.page_size() : kDefaultPage;
  if (size < 1 || size > kMaxPage)
    return InvalidField("page_size", absl::StrCat("is ", size, ", must be 1 to ", kMaxPage));
  const std::string& after = request.page_token();  // the last name of the page before
  if (!after.empty()) CLAMOR_RETURN_IF_ERROR(CheckSessionName("page_token", after));
  CLAMOR_ASSIGN_OR_RETURN(std::vector<v1::Session> sessions, keeper_->store().List(tenant, after, size + 1));
  if (sessions.size() > size) {
    sessions.resize(size);
    response->set_next_page_token(sessions.back().name());
  }
  for (v1::Session& session : sessions) *response->add_sessions() = std::move(session);
  return absl::OkStatus();
}

absl::Status SessionService::Do(const std::string& tenant, const v1::DeleteSessionRequest& request,
                                v1::DeleteSessionResponse*) {
  CLAMOR_RETURN_IF_ERROR(CheckSessionName("name", request.name()));
  return keeper_->store().Delete(tenant, request.name());
}

grpc::ServerUnaryReactor* SessionService::CreateSession(grpc::CallbackServerContext* context,
                                                        const v1::CreateSessionRequest* request,
                                                        v1::CreateSessionResponse* response) {
  return Answer("CreateSession", context, *request, response);
}

grpc::ServerUnaryReactor* SessionService::GetSession(grpc::CallbackServerContext* context,
                                                     const v1::GetSessionRequest* request,
                                                     v1::GetSessionResponse* response) {
  return Answer("GetSession", context, *request, response);
}

grpc::ServerUnaryReactor* SessionService::ListSessions(grpc::CallbackServerContext* context,
                                                       const v1::ListSessionsRequest* request,
                                                       v1::ListSessionsResponse* response) {
  return Answer("ListSessions", context, *request, response);
}

grpc::ServerWriteReactor<v1::ExportSessionResponse>* SessionService::ExportSession(
    grpc::CallbackServerContext* context, const v1::ExportSessionRequest* request) {
  auto* exported = new Export(keeper_, RequestRecord(metrics_, "ExportSession", TraceContextOf(*context)));
  exported->Begin(authenticator_->Identify(CredentialsOf(*context), "ExportSession"), request->name());
  return exported;
}

grpc::ServerUnaryReactor* SessionService::DeleteSession(grpc::CallbackServerContext* context,
                                                        const v1::DeleteSessionRequest* request,
                                                        v1::DeleteSessionResponse* response) {
  return Answer("DeleteSession", context, *request, response);
}

}  // namespace clamor
