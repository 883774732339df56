// Workers are lost in the middle of answers; clients get what they would have got.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "tests/services/gateway/gateway_fixture.h"
#include "tests/services/gateway/scripted_model.h"

namespace clamor {
namespace {

using testing::Eventually;
using testing::FakeWorker;
using ::testing::HasSubstr;
using testing::ScriptedModel;
using testing::SocketClosed;

const GatewayLimits kHasty = {
    .fleet = {.hang_after = absl::Milliseconds(300), .failover_wait = absl::Milliseconds(300)}};
const GatewayLimits kPatient = {
    .fleet = {.hang_after = absl::Milliseconds(300), .failover_wait = absl::Seconds(20)}};

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
      workers_.push_back(std::make_unique<FakeWorker>(0, "tiny", model_.Script(fate)));
      addresses.push_back(workers_.back()->address());
    }
    StartGateway(addresses, limits);
    ASSERT_TRUE(Eventually([&] { return ReadyWorkers() == workers; }));
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

  static std::string Counts(v1::Finished finished) {
    finished.mutable_speculation()
        ->clear_draft_nodes();  // those that a lost worker had rejected are not known
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

  const ScriptedModel model_;
  std::vector<std::unique_ptr<FakeWorker>> workers_;
};

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

// The hung worker wakes up and talks on: the client hears none of it.
TEST_F(FailoverTest, AHungWorkerIsLeftAndFenced) {
  absl::Notification taken_over;
  std::atomic<bool> talked = false;
  StartFleet(2, testing::Survive);
  const Whole undisturbed = Ask(Request()).by_choice[0];
  for (const auto& worker : workers_) {
    worker->SetScript(model_.Script(
        [&, w = worker.get()](grpc::ServerContext&, const FakeWorker::Request& request, uint64_t index) {
          if (!request.emitted_ids()
                   .empty()) {  // the next worker goes on when the hung one has told all it knows
            if (index == 5) taken_over.Notify();
            while (!talked) absl::SleepFor(absl::Milliseconds(1));
          } else if (index == 5) {
            w->SetSilent(true);
            taken_over.WaitForNotification();
            w->SetSilent(false);
          } else if (index == 30) {
            talked = true;
          }
          return grpc::Status::OK;
        }));
  }
  const Answers answers = Ask(Request());
  ASSERT_TRUE(answers.status.ok()) << answers.status;
  EXPECT_EQ(answers.by_choice.at(0), undisturbed);
  EXPECT_THAT(Metrics(), HasSubstr("clamor_gateway_failovers_total{outcome=\"moved\",reason=\"hung\"} 1\n"));
  EXPECT_TRUE(Eventually([&] { return ReadyWorkers() == 2; })) << "it gets requests again";
}

TEST_F(FailoverTest, AWorkerWhoseEngineStandsStillIsLeft) {
  StartFleet(2, testing::Survive);
  const Whole undisturbed = Ask(Request()).by_choice[0];
  std::atomic<bool> cancelled = false;
  for (const auto& worker : workers_) {
    worker->SetScript([&, w = worker.get()](grpc::ServerContext& context, const FakeWorker::Request& request,
                                            FakeWorker::Writer& writer) {
      if (request.follows()) return model_.Script()(context, request, writer);
      FakeWorker::WriteStarted(writer, request);
      v1::WorkerLoad load;
      load.set_stalled_seconds(1);
      load.set_slow_step_seconds(0.01);
      w->SetLoad(load);
      while (!context.IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
      cancelled = true;
      w->SetLoad({});
      return grpc::Status::CANCELLED;
    });
  }
  const Answers answers = Ask(Request());
  ASSERT_TRUE(answers.status.ok()) << answers.status;
  EXPECT_EQ(answers.by_choice.at(0), undisturbed);
  EXPECT_TRUE(Eventually([&] { return cancelled.load(); }));
  EXPECT_TRUE(Eventually([&] { return ReadyWorkers() == 2; })) << "it moves again";
}

// Slow is not hung: an engine whose steps are as slow as ever, a worker that talks but on its streams alone.
TEST_F(FailoverTest, NobodyLeavesABusyWorker) {
  StartFleet(2, testing::Survive);
  v1::WorkerLoad slow;
  slow.set_stalled_seconds(1);
  slow.set_slow_step_seconds(0.3);
  for (const auto& worker : workers_) {
    worker->SetLoad(slow);
    worker->SetScript([&, w = worker.get()](grpc::ServerContext&, const FakeWorker::Request& request,
                                            FakeWorker::Writer& writer) {
      FakeWorker::WriteStarted(writer, request);
      const bool silent = request.options().max_tokens() == 1;
      w->SetSilent(silent);
      const int tokens = silent ? 100 : 3;  // over a second in all
      for (int i = 0; i < tokens; ++i) {
        FakeWorker::WriteDelta(writer, static_cast<uint64_t>(i), 1, "x");
        absl::SleepFor(absl::Milliseconds(1200 / tokens));
      }
      w->SetSilent(false);
      FakeWorker::WriteFinished(writer);
      return grpc::Status::OK;
    });
  }
  for (const uint32_t max_tokens : {1, 2}) {
    const Answer answer = Stream(Request(max_tokens));
    EXPECT_TRUE(answer.status.ok()) << answer.status;
    EXPECT_EQ(streams(), static_cast<int>(max_tokens)) << "nobody moved";
  }
}

TEST_F(FailoverTest, AWorkerThatDrainsAloneFinishesWhatItHas) {
  absl::Notification go;
  StartFleet(1, [&](grpc::ServerContext& context, const FakeWorker::Request& request, uint64_t index) {
    while (index == 6 && request.emitted_ids().empty() && !go.HasBeenNotified() && !context.IsCancelled())
      absl::SleepFor(absl::Milliseconds(1));
    return context.IsCancelled() ? grpc::Status::CANCELLED : grpc::Status::OK;
  });
  v1::WorkerLoad draining;
  draining.set_draining(true);
  Answers alone;
  std::thread client([&] { alone = Ask(Request()); });
  ASSERT_TRUE(Eventually([&] { return streams() == 1; }));
  workers_[0]->SetLoad(draining);
  ASSERT_TRUE(Eventually([&] { return ReadyWorkers() == 0; }));
  go.Notify();
  client.join();
  ASSERT_TRUE(alone.status.ok()) << alone.status;
  EXPECT_EQ(streams(), 1);
}

TEST_F(FailoverTest, StreamsLeaveAWorkerThatDrains) {
  StartFleet(2, [&](grpc::ServerContext& context, const FakeWorker::Request& request, uint64_t index) {
    while (index == 6 && request.emitted_ids().empty() && !context.IsCancelled())
      absl::SleepFor(absl::Milliseconds(1));
    return context.IsCancelled() ? grpc::Status::CANCELLED : grpc::Status::OK;
  });
  Answers answers;
  std::thread client([&] { answers = Ask(Request()); });
  ASSERT_TRUE(Eventually([&] { return streams() == 1; }));
  v1::WorkerLoad draining;
  draining.set_draining(true);
  workers_[workers_[0]->streams() == 1 ? 0 : 1]->SetLoad(draining);
  client.join();
  ASSERT_TRUE(answers.status.ok()) << answers.status;
  EXPECT_EQ(answers.by_choice.at(0).ids.size(), 30u);
  EXPECT_EQ(streams(), 2);
  EXPECT_THAT(Metrics(),
              HasSubstr("clamor_gateway_failovers_total{outcome=\"moved\",reason=\"drained\"} 1\n"));
}

TEST_F(FailoverTest, AWorkerThatIsBackFromADrainKeepsItsStreams) {
  StartFleet(2, testing::Survive);
  v1::WorkerLoad draining;
  draining.set_draining(true);
  for (const auto& worker : workers_) {
    worker->SetLoad(draining);
    ASSERT_TRUE(Eventually([&] { return ReadyWorkers() == 1; }));
    worker->SetLoad({});
    ASSERT_TRUE(Eventually([&] { return ReadyWorkers() == 2; }));
  }
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(Ask(Request()).status.ok());
  EXPECT_EQ(streams(), 4) << "nobody moved";
}

TEST_F(FailoverTest, NoAnswerWandersForEver) {
  StartFleet(2, testing::Survive);
  for (const auto& worker : workers_) {
    worker->SetScript(
        [](grpc::ServerContext&, const FakeWorker::Request& request, FakeWorker::Writer& writer) {
          FakeWorker::WriteStarted(writer, request);
          return ToGrpc(Refusal("DRAINING", "the worker stopped before the answer was complete"));
        });
  }
  const Answers answers = Ask(Request());
  EXPECT_EQ(ReasonOf(answers.status), "NO_COMPATIBLE_WORKER") << answers.status;
  EXPECT_EQ(streams(), 33);
}

// A worker that was told to drain since the gateway last asked refuses: another is asked, the client hears
// nothing.
TEST_F(FailoverTest, ARefusalOfAWorkerThatDrainsIsNoClientsConcern) {
  StartFleet(2, testing::Survive);
  std::atomic<int> refused = 0;
  for (const auto& worker : workers_) {
    worker->SetScript([&, w = worker.get()](grpc::ServerContext& context, const FakeWorker::Request& request,
                                            FakeWorker::Writer& writer) {
      if (refused++ > 0) return model_.Script()(context, request, writer);
      v1::WorkerLoad draining;
      draining.set_draining(true);
      w->SetLoad(draining);
      return ToGrpc(Refusal("DRAINING", "this worker takes no new requests"));
    });
  }
  EXPECT_TRUE(Ask(Request()).status.ok());
  EXPECT_EQ(refused, 2);
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
  StartFleet(1, [](grpc::ServerContext& context, const FakeWorker::Request& request, uint64_t index) {
    while (index == 6 && request.emitted_ids().empty() && !context.IsCancelled())
      absl::SleepFor(absl::Milliseconds(1));
    return context.IsCancelled() ? grpc::Status::CANCELLED : grpc::Status::OK;
  });
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
  const auto ask = [&](grpc::ClientContext& context) {
    workers_[0]->SetServing(true);
    EXPECT_TRUE(Eventually([&] { return ReadyWorkers() == 1; }));
    auto reader = stub_->StreamGenerate(&context, Request());
    v1::StreamGenerateResponse response;
    size_t tokens = 0;
    while (tokens == 0 && reader->Read(&response))
      tokens += static_cast<size_t>(response.delta().token_ids_size());
    return reader;
  };
  {
    grpc::ClientContext context;
    auto reader = ask(context);
    context.TryCancel();
    v1::StreamGenerateResponse response;
    while (reader->Read(&response)) {
    }
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
    EXPECT_TRUE(
        Eventually([&] { return Metrics().find("clamor_gateway_streams_open 0\n") != std::string::npos; }));
  }
  {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(1));
    auto reader = ask(context);
    v1::StreamGenerateResponse response;
    while (reader->Read(&response)) {
    }
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
    EXPECT_TRUE(
        Eventually([&] { return Metrics().find("clamor_gateway_streams_open 0\n") != std::string::npos; }));
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
