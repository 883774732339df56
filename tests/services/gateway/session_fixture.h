// A gateway that keeps sessions in a folder, over a worker whose model is a hash.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "clamor/v1/session.grpc.pb.h"
#include "tests/services/gateway/gateway_fixture.h"
#include "tests/services/gateway/scripted_model.h"

namespace clamor::testing {

class SessionGatewayTest : public GatewayTest {
 protected:
  SessionGatewayTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "clamor-gateway-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
  }
  ~SessionGatewayTest() override {
    gateway_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  // Again: as after a restart, with what was kept, unless another worker is wanted the same one.
  void StartKeeping(GatewayLimits limits = {}) {
    gateway_.reset();
    if (worker_ == nullptr) worker_ = std::make_unique<FakeWorker>(0, "tiny", model_.Script());
    limits.sessions.store.location = folder_ + "/sessions";
    StartGateway({worker_->address()}, limits);
    sessions_ = v1::SessionService::NewStub(channel_);
    ASSERT_TRUE(Eventually([&] { return Ready(); }));
  }

  static std::unique_ptr<grpc::ClientContext> Context(const std::string& tenant = "") {
    auto context = std::make_unique<grpc::ClientContext>();
    if (!tenant.empty()) context->AddMetadata("x-clamor-tenant", tenant);
    return context;
  }
  absl::StatusOr<v1::Session> Create(const v1::CreateSessionRequest& request,
                                     const std::string& tenant = "") {
    v1::CreateSessionResponse response;
    const grpc::Status status = sessions_->CreateSession(Context(tenant).get(), request, &response);
    if (!status.ok()) return FromGrpc(status);
    return response.session();
  }
  absl::StatusOr<v1::Session> Create(const std::string& name, const std::string& tenant = "") {
    v1::CreateSessionRequest request;
    request.set_name(name);
    return Create(request, tenant);
  }
  absl::StatusOr<v1::Session> Find(const std::string& name, const std::string& tenant = "") {
    v1::GetSessionRequest request;
    request.set_name(name);
    v1::GetSessionResponse response;
    const grpc::Status status = sessions_->GetSession(Context(tenant).get(), request, &response);
    if (!status.ok()) return FromGrpc(status);
    return response.session();
  }
  // Its turns, oldest first, after the session itself.
  absl::StatusOr<std::vector<v1::Turn>> ExportTurns(const std::string& name, const std::string& tenant = "") {
    v1::ExportSessionRequest request;
    request.set_name(name);
    const auto context = Context(tenant);
    auto reader = sessions_->ExportSession(context.get(), request);
    std::vector<v1::Turn> turns;
    int parts = 0;
    for (v1::ExportSessionResponse response; reader->Read(&response); ++parts) {
      EXPECT_EQ(response.has_session(), parts == 0);
      if (response.has_turn()) turns.push_back(response.turn());
    }
    const grpc::Status status = reader->Finish();
    if (!status.ok()) return FromGrpc(status);
    return turns;
  }

  static v1::StreamChatRequest Say(const std::string& session, const std::string& text, uint64_t seed = 1) {
    v1::StreamChatRequest request;
    request.mutable_session()->set_name(session);
    v1::ChatMessage& message = *request.add_messages();
    message.set_role("user");
    message.set_content(text);
    request.mutable_options()->mutable_sampling()->set_seed(seed);
    request.mutable_options()->set_max_tokens(20);
    return request;
  }
  Answer Chat(const v1::StreamChatRequest& request, const std::string& tenant = "") {
    const auto context = Context(tenant);
    auto reader = stub_->StreamChat(context.get(), request);
    return ReadEvents<v1::StreamChatResponse>(*reader);
  }
  Answer Resume(const std::string& id, uint64_t tokens = 0, uint64_t bytes = 0, uint32_t choice = 0,
                const std::string& tenant = "") {
    v1::ResumeStreamRequest request;
    request.set_stream_id(id);
    request.set_next_token_index(tokens);
    request.set_next_text_byte(bytes);
    request.set_choice(choice);
    const auto context = Context(tenant);
    auto reader = stub_->ResumeStream(context.get(), request);
    return ReadEvents<v1::ResumeStreamResponse>(*reader, tokens, bytes, choice);
  }

  // As ReadAll, of any kind of stream, that begins at token `next` and text byte `next_byte`.
  template <class Response, class Reader>
  static Answer ReadEvents(Reader& reader, uint64_t next = 0, uint64_t next_byte = 0, uint32_t choice = 0) {
    Answer answer;
    for (Response response; reader.Read(&response);) {
      if (response.has_started()) {
        ++answer.starts;
        answer.started = response.started();
        EXPECT_EQ(response.started().choice(), choice);
      } else if (response.has_delta()) {
        const v1::Delta& delta = response.delta();
        ++answer.deltas;
        EXPECT_EQ(delta.choice(), choice);
        answer.continuous &= answer.starts == 1 && answer.finishes == 0 &&
                             delta.first_token_index() == next + answer.ids.size() &&
                             delta.first_text_byte() == next_byte + answer.text.size() &&
                             delta.sources_size() == delta.token_ids_size() &&
                             delta.text_bytes_size() == delta.token_ids_size();
        answer.ids.insert(answer.ids.end(), delta.token_ids().begin(), delta.token_ids().end());
        answer.text += delta.text();
      } else {
        ++answer.finishes;
        answer.finished = response.finished();
        EXPECT_EQ(response.finished().choice(), choice);
      }
    }
    answer.status = FromGrpc(reader.Finish());
    return answer;
  }

  std::string folder_;
  const ScriptedModel model_;
  std::unique_ptr<v1::SessionService::Stub> sessions_;
};

}  // namespace clamor::testing
