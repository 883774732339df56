// A fleet of workers of one scripted model, and what clients get of it whatever becomes of the workers.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/services/gateway/gateway_fixture.h"
#include "tests/services/gateway/scripted_model.h"

namespace clamor {

// Nobody is taken for hung, however busy the machine is, but by who watches for it.
inline const GatewayLimits kHasty = {
    .fleet = {.hang_after = absl::Hours(1), .failover_wait = absl::Milliseconds(300)}};
inline const GatewayLimits kPatient = {
    .fleet = {.hang_after = absl::Hours(1), .failover_wait = absl::Seconds(30)}};
inline const GatewayLimits kWatchful = {
    .fleet = {.hang_after = absl::Seconds(1), .failover_wait = absl::Seconds(30)}};

class FailoverTest : public testing::GatewayTest {
 protected:
  // What clients get of one answer, as far as it must not depend on workers.
  struct Whole {
    int starts = 0, finishes = 0;
    uint64_t seed = 0;
    std::vector<uint32_t> ids;
    std::string text, logprobs, finished;
    bool operator==(const Whole&) const = default;
  };
  struct Answers {
    std::map<uint32_t, Whole> by_choice;
    absl::Status status;
  };

  // A worker for each, all of one model, and a gateway that has found them.
  void StartFleet(int workers, const testing::Fate& fate, const GatewayLimits& limits = kPatient) {
    std::vector<std::string> addresses;
    for (int i = 0; i < workers; ++i) {
      workers_.push_back(std::make_unique<testing::FakeWorker>(0, "tiny", model_.Script(fate)));
      addresses.push_back(workers_.back()->address());
    }
    StartGateway(addresses, limits);
    ASSERT_TRUE(testing::Eventually([&] { return ReadyWorkers() == workers; }));
  }
  int ReadyWorkers() {
    grpc::ClientContext context;
    v1::GetStatusResponse response;
    EXPECT_TRUE(models_->GetStatus(&context, {}, &response).ok());
    int ready = 0;
    for (const v1::WorkerStatus& worker : response.workers())
      ready += worker.state() == v1::WORKER_STATE_READY;
    return ready;
  }

  // Of a worker that stands still after six tokens of an answer that it began, until it is left.
  static grpc::Status StandStill(grpc::ServerContext& context, const testing::FakeWorker::Request& request,
                                 uint64_t index) {
    while (index == 6 && request.emitted_ids().empty() && !context.IsCancelled())
      absl::SleepFor(absl::Milliseconds(1));
    return context.IsCancelled() ? grpc::Status::CANCELLED : grpc::Status::OK;
  }

  static std::string Counts(v1::Finished finished) {
    finished.mutable_speculation()
        ->clear_draft_nodes();  // those that a lost worker had rejected are not known
    finished.mutable_speculation()->mutable_accepted();  // of none there may be a message or not
    return finished.DebugString();
  }
  Answers Ask(const v1::StreamGenerateRequest& request, grpc::ClientContext* context) {
    Answers answers;
    auto reader = stub_->StreamGenerate(context, request);
    for (v1::StreamGenerateResponse response; reader->Read(&response);) {
      if (response.has_started()) {
        Whole& answer = answers.by_choice[response.started().choice()];
        ++answer.starts;
        answer.seed = response.started().seed();
      } else if (response.has_delta()) {
        const v1::Delta& delta = response.delta();
        Whole& answer = answers.by_choice[delta.choice()];
        EXPECT_EQ(answer.starts, 1);
        EXPECT_EQ(answer.finishes, 0);
        EXPECT_EQ(delta.first_token_index(), answer.ids.size());
        if (delta.has_first_text_byte()) {
          EXPECT_EQ(delta.first_text_byte(), answer.text.size());
        }
        answer.ids.insert(answer.ids.end(), delta.token_ids().begin(), delta.token_ids().end());
        answer.text += delta.text();
        for (const v1::TokenLogprobs& logprobs : delta.logprobs())
          answer.logprobs += logprobs.ShortDebugString();
      } else {
        Whole& answer = answers.by_choice[response.finished().choice()];
        ++answer.finishes;
        answer.finished = Counts(response.finished());
      }
    }
    answers.status = FromGrpc(reader->Finish());
    return answers;
  }
  Answers Ask(const v1::StreamGenerateRequest& request) {
    grpc::ClientContext context;
    return Ask(request, &context);
  }
  static v1::StreamGenerateRequest Request(uint32_t max_tokens = 30) {
    v1::StreamGenerateRequest request = IdsRequest({3, 4, 5}, max_tokens);
    request.mutable_options()->mutable_sampling()->set_seed(0);  // it shows in what the scripted model says
    return request;
  }

  int streams() const {
    int sum = 0;
    for (const auto& worker : workers_) sum += worker->streams();
    return sum;
  }
  std::string Metrics() { return testing::HttpGet(gateway_->server().http_address(), "/metrics").body; }

  ~FailoverTest() override {
    for (const auto& worker : workers_) worker->Stop();
  }

  const testing::ScriptedModel model_;
  std::vector<std::unique_ptr<testing::FakeWorker>> workers_;
};

}  // namespace clamor
