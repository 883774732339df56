// A whole gateway over fake workers, in this process.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "clamor/v1/generation.grpc.pb.h"
#include "clamor/v1/model.grpc.pb.h"
#include "grpcpp/create_channel.h"
#include "services/gateway/gateway.h"
#include "services/rpc_error.h"
#include "tests/services/gateway/fake_worker.h"
#include "tests/services/http_get.h"

namespace clamor::testing {

// Waits until `condition` holds; false after half a minute.
template <class Condition>
bool Eventually(Condition condition) {
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return true;
}

class GatewayTest : public ::testing::Test {
 protected:
  void StartGateway(const std::vector<std::string>& workers, GatewayLimits limits = {}) {
    auto gateway = Gateway::Start({.name = "clamor-gateway", .listen = "127.0.0.1:0", .http = "127.0.0.1:0"},
                                  workers, limits);
    ASSERT_TRUE(gateway.ok()) << gateway.status();
    gateway_ = *std::move(gateway);
    channel_ = grpc::CreateChannel(gateway_->server().grpc_address(), grpc::InsecureChannelCredentials());
    stub_ = v1::GenerationService::NewStub(channel_);
    models_ = v1::ModelService::NewStub(channel_);
  }
  // One worker, and a gateway that has found it.
  void StartWithWorker(GatewayLimits limits = {}) {
    worker_ = std::make_unique<FakeWorker>();
    StartGateway({worker_->address()}, limits);
    ASSERT_TRUE(Eventually([&] { return Ready(); }));
  }
  // Whether the gateway has done with all that it began.
  bool NoneOpen() {
    const std::string metrics = HttpGet(gateway_->server().http_address(), "/metrics").body;
    return metrics.find("clamor_gateway_streams_open 0\n") != std::string::npos;
  }
  bool Ready() { return HttpGet(gateway_->server().http_address(), "/readyz").status == 200; }

  // What a stream brought.
  struct Answer {
    absl::Status status;
    v1::Started started;
    std::vector<uint32_t> ids;
    std::string text;
    v1::Finished finished;
    int starts = 0, deltas = 0, finishes = 0;
    bool continuous = true;
  };
  template <class Reader>
  static Answer ReadAll(Reader& reader) {
    Answer answer;
    for (v1::StreamGenerateResponse response; reader.Read(&response);) {
      if (response.has_started()) {
        ++answer.starts;
        answer.started = response.started();
      } else if (response.has_delta()) {
        ++answer.deltas;
        answer.continuous &= answer.starts == 1 && answer.finishes == 0 &&
                             response.delta().first_token_index() == answer.ids.size() &&
                             response.delta().sources_size() == response.delta().token_ids_size();
        answer.ids.insert(answer.ids.end(), response.delta().token_ids().begin(),
                          response.delta().token_ids().end());
        answer.text += response.delta().text();
      } else {
        ++answer.finishes;
        answer.finished = response.finished();
      }
    }
    answer.status = FromGrpc(reader.Finish());
    return answer;
  }
  Answer Stream(const v1::StreamGenerateRequest& request, const std::string& tenant = "") {
    grpc::ClientContext context;
    if (!tenant.empty()) context.AddMetadata("x-clamor-tenant", tenant);
    auto reader = stub_->StreamGenerate(&context, request);
    return ReadAll(*reader);
  }
  // Of a connection of its own whose windows stay as they are: where gRPC widens them, megabytes may wait in
  // the client that it has not read.
  std::unique_ptr<v1::GenerationService::Stub> NarrowStub() {
    grpc::ChannelArguments narrow;
    narrow.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    narrow.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    return v1::GenerationService::NewStub(grpc::CreateCustomChannel(
        gateway_->server().grpc_address(), grpc::InsecureChannelCredentials(), narrow));
  }
  // What a client gets that reads nothing until its worker, which says `piece` again and again, is told to
  // stop. `said`: how many bytes it did. They are of no token, for the context might end before the room that
  // gRPC makes for a client that does not read.
  Answer ReadLate(const std::string& piece, uint64_t* said) {
    absl::Notification cancelled;
    std::atomic<uint64_t> sent = 0;
    worker_->SetScript([&](auto& context, const auto& request, auto& writer) {
      FakeWorker::WriteStarted(writer, request);
      v1::WorkerServiceStreamGenerateResponse response;
      response.mutable_delta()->set_text(piece);
      while (!context.IsCancelled() && writer.Write(response)) sent += piece.size();
      cancelled.Notify();
      return grpc::Status::CANCELLED;
    });
    grpc::ClientContext context;
    auto reader = stub_->StreamGenerate(&context, IdsRequest({1}, 1));
    EXPECT_TRUE(cancelled.WaitForNotificationWithTimeout(absl::Seconds(30)));
    *said = sent;
    return ReadAll(*reader);
  }
  static v1::StreamGenerateRequest IdsRequest(const std::vector<uint32_t>& ids, uint32_t max_tokens) {
    v1::StreamGenerateRequest request;
    request.mutable_token_ids()->mutable_ids()->Add(ids.begin(), ids.end());
    request.mutable_options()->set_max_tokens(max_tokens);
    return request;
  }

  std::unique_ptr<FakeWorker> worker_;
  std::unique_ptr<Gateway> gateway_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::GenerationService::Stub> stub_;
  std::unique_ptr<v1::ModelService::Stub> models_;
};

}  // namespace clamor::testing
