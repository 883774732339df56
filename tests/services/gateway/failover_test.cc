// Workers are lost in the middle of answers; clients get what they would have got.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/services/gateway/failover_fixture.h"

namespace clamor {
namespace {

using testing::Eventually;
using testing::FakeWorker;
using ::testing::HasSubstr;
using testing::ScriptedModel;
using testing::SocketClosed;

struct Feature {
  const char* name;
  v1::GenerationOptions options;
};
std::vector<Feature> Features() {
  std::vector<Feature> features(7, Feature{.name = "greedy"});
  features[1].name = "sampled";
  features[1].options.mutable_sampling()->set_temperature(1);
  features[1].options.mutable_sampling()->set_seed(7);
  features[2].name = "stop strings";
  for (const char* stop : {"ing", "e", "no such text"}) features[2].options.add_stop(stop);
  features[2].options.set_min_tokens(9);
  features[3].name = "logprobs";
  features[3].options.set_top_logprobs(2);
  features[4].name = "schema";
  features[4].options.set_json_schema(R"({"type": "object"})");
  features[5].name = "several answers";
  features[5].options.set_n(3);
  features[6].name = "as long as there is room";
  features[6].options.set_min_tokens(1000);
  for (Feature& feature : features) {
    if (feature.name != features[6].name) feature.options.set_max_tokens(20);
  }
  return features;
}

TEST_F(FailoverTest, DeathAtEveryToken) {
  std::atomic<int64_t> die_at = -1;
  // The first worker of an answer dies; those of several answers at different tokens.
  StartFleet(4, [&](grpc::ServerContext&, const FakeWorker::Request& request, uint64_t index) {
    const int64_t at =
        die_at - static_cast<int64_t>(request.options().n() * (request.options().sampling().seed() % 5));
    const bool dies = request.emitted_ids().empty() && at > 0 && static_cast<int64_t>(index) == at;
    return dies ? SocketClosed() : grpc::Status::OK;
  });
  for (const Feature& feature : Features()) {
    SCOPED_TRACE(feature.name);
    v1::StreamGenerateRequest request = Request();
    *request.mutable_options() = feature.options;
    if (!request.options().sampling().has_seed()) request.mutable_options()->mutable_sampling()->set_seed(0);
    die_at = -1;
    const Answers undisturbed = Ask(request);
    ASSERT_TRUE(undisturbed.status.ok()) << undisturbed.status;
    const int64_t tokens = static_cast<int64_t>(undisturbed.by_choice.at(0).ids.size());
    ASSERT_GT(tokens, 8);
    for (int64_t at = 1; at <= tokens; ++at) {
      SCOPED_TRACE(at);
      die_at = at;
      const int before = streams();
      const Answers answers = Ask(request);
      ASSERT_TRUE(answers.status.ok()) << answers.status;
      EXPECT_EQ(answers.by_choice, undisturbed.by_choice);
      EXPECT_GT(streams() - before, static_cast<int>(undisturbed.by_choice.size())) << "nobody died";
    }
  }
}

TEST_F(FailoverTest, TheNextWorkerIsAskedForTheRest) {
  StartFleet(2, [](grpc::ServerContext&, const FakeWorker::Request& request, uint64_t index) {
    return index == 6 && request.emitted_ids().empty() ? SocketClosed() : grpc::Status::OK;
  });
  v1::StreamGenerateRequest request = Request();
  request.mutable_options()->clear_max_tokens();
  request.mutable_options()->mutable_sampling()->set_temperature(1);
  request.mutable_options()->set_min_tokens(100);
  const Answers answers = Ask(request);
  ASSERT_TRUE(answers.status.ok()) << answers.status;
  FakeWorker::Request first = workers_[0]->last_request(), second = workers_[1]->last_request();
  if (!first.emitted_ids().empty()) std::swap(first, second);
  const std::vector<uint32_t>& ids = answers.by_choice.at(0).ids;
  EXPECT_EQ(std::vector<uint32_t>(second.emitted_ids().begin(), second.emitted_ids().end()),
            std::vector<uint32_t>(ids.begin(), ids.begin() + 6));
  EXPECT_EQ(second.options().sampling().seed(), answers.by_choice.at(0).seed) << "drawn once";
  EXPECT_TRUE(second.follows()) << "the queue must not refuse what was admitted";
  EXPECT_EQ(second.options().max_tokens(), ScriptedModel::kDefaultMaxTokens) << "the room that the first had";
  EXPECT_EQ(second.options().min_tokens(), ScriptedModel::kDefaultMaxTokens);
  second.clear_emitted_ids();
  second.clear_follows();
  second.mutable_options()->clear_max_tokens();
  second.mutable_options()->set_min_tokens(100);
  EXPECT_EQ(second.DebugString(), first.DebugString());
  EXPECT_THAT(Metrics(), HasSubstr("clamor_gateway_failovers_total{outcome=\"moved\",reason=\"died\"} 1\n"));
  EXPECT_THAT(Metrics(), HasSubstr("clamor_gateway_failover_pause_seconds_count 1\n"));
}

TEST_F(FailoverTest, UnaryAnswersGoOn) {
  StartFleet(2, [](grpc::ServerContext&, const FakeWorker::Request& request, uint64_t index) {
    return index == 6 && request.emitted_ids().empty() ? SocketClosed() : grpc::Status::OK;
  });
  const Whole streamed = Ask(Request()).by_choice[0];
  grpc::ClientContext context;
  v1::GenerateRequest request;
  *request.mutable_token_ids() = Request().token_ids();
  *request.mutable_options() = Request().options();
  v1::GenerateResponse response;
  ASSERT_TRUE(Eventually([&] { return ReadyWorkers() == 2; }));
  ASSERT_TRUE(stub_->Generate(&context, request, &response).ok());
  EXPECT_EQ(streams(), 4);
  ASSERT_EQ(response.answers_size(), 1);
  const v1::Answer& answer = response.answers(0);
  EXPECT_EQ(std::vector<uint32_t>(answer.token_ids().begin(), answer.token_ids().end()), streamed.ids);
  EXPECT_EQ(answer.text(), streamed.text);
  EXPECT_EQ(answer.finished().usage().completion_tokens(), 30u);
}

TEST_F(FailoverTest, BeforeTheStartNobodyNotices) {
  std::atomic<int> died = 0;
  StartFleet(2, testing::Survive);
  for (const auto& worker : workers_) {
    worker->SetScript(
        [&](grpc::ServerContext& context, const FakeWorker::Request& request, FakeWorker::Writer& writer) {
          if (died++ == 0) return SocketClosed();
          EXPECT_FALSE(request.follows()) << "it was not admitted";
          return model_.Script()(context, request, writer);
        });
  }
  const Answers answers = Ask(Request());
  EXPECT_TRUE(answers.status.ok()) << answers.status;
  EXPECT_EQ(answers.by_choice.at(0).ids.size(), 30u);
}

// The worker dies when all is said but the end.
TEST_F(FailoverTest, TheEndIsToldByTheNext) {
  StartFleet(2, [&](grpc::ServerContext&, const FakeWorker::Request& request, uint64_t index) {
    return index == 30 && request.emitted_ids().empty() ? SocketClosed() : grpc::Status::OK;
  });
  const Answers answers = Ask(Request());
  EXPECT_TRUE(answers.status.ok()) << answers.status;
  EXPECT_EQ(answers.by_choice.at(0).finishes, 1);
  EXPECT_EQ(streams(), 2);
}

TEST_F(FailoverTest, AfterTheEndNothingIsMissing) {
  StartFleet(2, testing::Survive);
  for (const auto& worker : workers_) {
    worker->SetScript(
        [&](grpc::ServerContext& context, const FakeWorker::Request& request, FakeWorker::Writer& writer) {
          return model_.Script()(context, request, writer), SocketClosed();
        });
  }
  const Answers answers = Ask(Request());
  EXPECT_TRUE(answers.status.ok()) << answers.status;
  EXPECT_EQ(streams(), 1);
}

TEST_F(FailoverTest, OnlyAnEqualWorkerGoesOn) {
  const auto dies_for_good = [this](grpc::ServerContext&, const FakeWorker::Request&, uint64_t index) {
    if (index < 6) return grpc::Status::OK;
    workers_[0]->SetServing(false);
    return SocketClosed();
  };
  workers_.push_back(std::make_unique<FakeWorker>(0, "tiny", model_.Script(dies_for_good)));
  workers_.push_back(std::make_unique<FakeWorker>(0, "tiny", FakeWorker::Echo, "r2"));
  workers_.push_back(std::make_unique<FakeWorker>(0, "other", FakeWorker::Echo));
  StartGateway({workers_[0]->address(), workers_[1]->address(), workers_[2]->address()}, kHasty);
  ASSERT_TRUE(Eventually([&] { return ReadyWorkers() == 3; }));
  v1::StreamGenerateRequest request = Request();
  request.set_model("tiny");
  absl::Status status;
  ASSERT_TRUE(Eventually([&] {  // requests go to both revisions; those of the second are echoed
    status = Stream(request).status;
    return !status.ok();
  }));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), "NO_COMPATIBLE_WORKER") << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("after 6 tokens"));
  EXPECT_THAT(Metrics(),
              HasSubstr("clamor_gateway_failovers_total{outcome=\"no_worker\",reason=\"died\"} 1\n"));
}

TEST_F(FailoverTest, AWorkerThatComesInTimeGoesOn) {
  StartFleet(1, StandStill);
  Answers answers;
  std::thread client([&] { answers = Ask(Request()); });
  ASSERT_TRUE(Eventually([&] { return streams() == 1; }));
  const int port = workers_[0]->port();
  workers_[0]->Stop();
  workers_[0] = nullptr;
  workers_[0] = std::make_unique<FakeWorker>(port, "tiny", model_.Script());
  client.join();
  EXPECT_TRUE(answers.status.ok()) << answers.status;
  EXPECT_EQ(answers.by_choice.at(0).ids.size(), 30u);
}

TEST_F(FailoverTest, ARequestThatKillsTwoWorkersGetsNoThird) {
  StartFleet(4, [](grpc::ServerContext&, const FakeWorker::Request&, uint64_t index) {
    return index == 6 ? SocketClosed() : grpc::Status::OK;
  });
  const Answers answers = Ask(Request());
  EXPECT_EQ(answers.status.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(ReasonOf(answers.status), "POISON_REQUEST") << answers.status;
  EXPECT_EQ(streams(), 2);
  EXPECT_EQ(answers.by_choice.at(0).ids.size(), 6u);
  EXPECT_THAT(Metrics(),
              HasSubstr("clamor_gateway_failovers_total{outcome=\"poison_request\",reason=\"died\"} 1\n"));
}

TEST_F(FailoverTest, WhoLosesTwoWorkersFarApartIsNotToBlame) {
  StartFleet(4, [](grpc::ServerContext&, const FakeWorker::Request& request, uint64_t index) {
    const bool dies =
        (index == 6 && request.emitted_ids().empty()) || (index == 26 && request.emitted_ids_size() == 6);
    return dies ? SocketClosed() : grpc::Status::OK;
  });
  const Answers answers = Ask(Request());
  EXPECT_TRUE(answers.status.ok()) << answers.status;
  EXPECT_EQ(answers.by_choice.at(0).ids.size(), 30u);
  EXPECT_EQ(streams(), 3);
}

TEST_F(FailoverTest, ClientsLeaveAndDeadlinesPassWhileNobodyIsThere) {
  StartFleet(1, [this](grpc::ServerContext&, const FakeWorker::Request&, uint64_t index) {
    if (index < 6) return grpc::Status::OK;
    workers_[0]->SetServing(false);  // or it would go on itself
    return SocketClosed();
  });
  const auto ask = [&](grpc::ClientContext& context, absl::Duration time) {
    workers_[0]->SetServing(true);
    EXPECT_TRUE(Eventually([&] { return ReadyWorkers() == 1; }));
    context.set_deadline(absl::ToChronoTime(absl::Now() + time));
    auto reader = stub_->StreamGenerate(&context, Request());
    v1::StreamGenerateResponse response;
    size_t tokens = 0;
    while (tokens == 0 && reader->Read(&response))
      tokens += static_cast<size_t>(response.delta().token_ids_size());
    EXPECT_TRUE(tokens == 0 || Eventually([&] { return ReadyWorkers() == 0; }));
    return reader;
  };
  {
    grpc::ClientContext context;
    auto reader = ask(context, absl::InfiniteDuration());
    context.TryCancel();
    v1::StreamGenerateResponse response;
    while (reader->Read(&response)) {
    }
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
    EXPECT_TRUE(Eventually([&] { return NoneOpen(); }));
  }
  {
    grpc::ClientContext context;
    auto reader = ask(context, absl::Seconds(1));
    v1::StreamGenerateResponse response;
    while (reader->Read(&response)) {
    }
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
    EXPECT_TRUE(Eventually([&] { return NoneOpen(); }));
  }
}

// Of equal workers one may hold less: it cannot go on, another can.
TEST_F(FailoverTest, AWorkerWithoutRoomIsPassedOver) {
  std::atomic<int> calls = 0;
  StartFleet(3, testing::Survive);
  for (const auto& worker : workers_) {
    worker->SetScript(
        [&](grpc::ServerContext& context, const FakeWorker::Request& request, FakeWorker::Writer& writer) {
          const int call = calls++;
          if (call == 0) return FakeWorker::WriteStarted(writer, request), SocketClosed();
          if (call == 1) return ToGrpc(Refusal("CONTEXT_TOO_LONG", "prompt of 3 tokens and more"));
          return model_.Script()(context, request, writer);
        });
  }
  EXPECT_TRUE(Ask(Request()).status.ok());
  EXPECT_EQ(calls, 3);
}

// A worker that does not go on where it should is not believed.
TEST_F(FailoverTest, GapsAreSeen) {
  StartFleet(2, testing::Survive);
  const struct {
    uint64_t index, byte;
    const char* revision;
    const char* problem;
  } cases[] = {{5, 6, "r1", "from index 5, expected 6"},
               {7, 6, "r1", "from index 7, expected 6"},
               {6, 5, "r1", "from byte 5, expected 6"},
               {6, 6, "r2", "has revision r2, the answer began with r1"}};
  for (const auto& c : cases) {
    ASSERT_TRUE(Eventually([&] { return ReadyWorkers() == 2; }));
    for (const auto& worker : workers_) {
      worker->SetScript(
          [&](grpc::ServerContext&, const FakeWorker::Request& request, FakeWorker::Writer& writer) {
            if (!request.follows()) {
              FakeWorker::WriteStarted(writer, request);
              for (uint64_t i = 0; i < 6; ++i) FakeWorker::WriteDelta(writer, i, 1, "x");
              return SocketClosed();
            }
            v1::WorkerServiceStreamGenerateResponse response;
            response.mutable_started()->set_model_revision(c.revision);
            writer.Write(response);
            response.mutable_delta()->set_first_token_index(c.index);
            response.mutable_delta()->set_first_text_byte(c.byte);
            response.mutable_delta()->add_token_ids(1);
            writer.Write(response);
            FakeWorker::WriteFinished(writer);
            return grpc::Status::OK;
          });
    }
    const Answers answers = Ask(Request());
    EXPECT_FALSE(answers.status.ok());
    EXPECT_THAT(std::string(answers.status.message()), HasSubstr(c.problem));
    EXPECT_EQ(answers.by_choice.at(0).ids.size(), 6u);
  }
}

}  // namespace
}  // namespace clamor
