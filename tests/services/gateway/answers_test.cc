// Several answers to one request.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <thread>

#include "absl/synchronization/notification.h"
#include "tests/services/gateway/gateway_fixture.h"

namespace clamor {
namespace {

using ::testing::ElementsAre;
using testing::Eventually;
using testing::FakeWorker;

class AnswersTest : public testing::GatewayTest {
 protected:
  static constexpr uint64_t kLastSeed = ~uint64_t{0};

  static v1::StreamGenerateRequest Several(uint32_t n, uint32_t max_tokens, uint64_t seed) {
    v1::StreamGenerateRequest request = IdsRequest({3, 4, 5}, max_tokens);
    request.mutable_options()->set_n(n);
    request.mutable_options()->mutable_sampling()->set_seed(seed);
    return request;
  }

  struct Stream {
    std::map<uint32_t, Answer> answers;
    std::vector<uint32_t> order;  // of the answers that the deltas belong to
    absl::Status status;
  };
  Stream ReadStream(grpc::ClientReader<v1::StreamGenerateResponse>& reader) {
    Stream stream;
    for (v1::StreamGenerateResponse response; reader.Read(&response);) {
      if (response.has_started()) {
        Answer& answer = stream.answers[response.started().choice()];
        answer.started = response.started();
        ++answer.starts;
      } else if (response.has_delta()) {
        const v1::Delta& delta = response.delta();
        Answer& answer = stream.answers[delta.choice()];
        EXPECT_EQ(answer.starts, 1);
        EXPECT_EQ(answer.finishes, 0);
        EXPECT_EQ(delta.first_token_index(), answer.ids.size());
        answer.ids.insert(answer.ids.end(), delta.token_ids().begin(), delta.token_ids().end());
        answer.text += delta.text();
        stream.order.push_back(delta.choice());
      } else {
        ++stream.answers[response.finished().choice()].finishes;
      }
    }
    stream.status = FromGrpc(reader.Finish());
    return stream;
  }
  Stream Ask(const v1::StreamGenerateRequest& request) {
    grpc::ClientContext context;
    return ReadStream(*stub_->StreamGenerate(&context, request));
  }

  // Says which seed it was asked for, in `tokens` tokens.
  static grpc::Status SaySeed(const FakeWorker::Request& request, FakeWorker::Writer& writer, int tokens) {
    FakeWorker::WriteStarted(writer, request);
    for (int i = 0; i < tokens; ++i) {
      FakeWorker::WriteDelta(writer, static_cast<uint64_t>(i), 1,
                             absl::StrCat(request.options().sampling().seed(), " "));
    }
    FakeWorker::WriteFinished(writer);
    return grpc::Status::OK;
  }
};

TEST_F(AnswersTest, EachIsThatOfItsSeed) {
  StartWithWorker();
  worker_->SetScript([](grpc::ServerContext&, const FakeWorker::Request& request,
                        FakeWorker::Writer& writer) { return SaySeed(request, writer, 2); });
  for (const uint32_t n : {1u, 2u, 16u}) {
    const Stream stream = Ask(Several(n, 8, kLastSeed));
    ASSERT_TRUE(stream.status.ok()) << stream.status;
    ASSERT_EQ(stream.answers.size(), n);
    for (const auto& [choice, answer] : stream.answers) {
      const uint64_t seed = kLastSeed + choice;  // 0 comes after the last
      EXPECT_EQ(answer.started.seed(), seed);
      EXPECT_EQ(answer.started.model(), "tiny");
      EXPECT_EQ(answer.text, absl::StrCat(seed, " ", seed, " "));
      EXPECT_EQ(answer.starts, 1);
      EXPECT_EQ(answer.finishes, 1);
    }
  }
}

TEST_F(AnswersTest, UnaryCallsHaveThemInOrder) {
  StartWithWorker();
  worker_->SetScript([](grpc::ServerContext&, const FakeWorker::Request& request,
                        FakeWorker::Writer& writer) { return SaySeed(request, writer, 1); });
  grpc::ClientContext context;
  v1::GenerateRequest request;
  request.mutable_token_ids()->add_ids(3);
  request.mutable_options()->set_n(4);
  request.mutable_options()->mutable_sampling()->set_seed(7);
  v1::GenerateResponse response;
  ASSERT_TRUE(stub_->Generate(&context, request, &response).ok());
  ASSERT_EQ(response.answers_size(), 4);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(response.answers(i).text(), absl::StrCat(7 + i, " "));
    EXPECT_EQ(response.answers(i).started().choice(), static_cast<uint32_t>(i));
    EXPECT_EQ(response.answers(i).finished().choice(), static_cast<uint32_t>(i));
  }
}

TEST_F(AnswersTest, OthersBeginWhenThePromptHasBeenRead) {
  StartWithWorker();
  absl::Notification read;
  worker_->SetScript(
      [&](grpc::ServerContext&, const FakeWorker::Request& request, FakeWorker::Writer& writer) {
        if (request.options().sampling().seed() != 1) return SaySeed(request, writer, 1);
        FakeWorker::WriteStarted(writer, request);
        read.WaitForNotification();
        FakeWorker::WriteDelta(writer, 0, 1, "first");
        while (worker_->streams() < 3) absl::SleepFor(absl::Milliseconds(1));
        FakeWorker::WriteFinished(writer);
        return grpc::Status::OK;
      });
  Stream stream;
  std::thread client([&] { stream = Ask(Several(3, 8, 1)); });
  ASSERT_TRUE(Eventually([&] { return worker_->streams() == 1; }));
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_EQ(worker_->streams(), 1) << "the first is alone while it reads";
  read.Notify();
  client.join();
  EXPECT_TRUE(stream.status.ok()) << stream.status;
  EXPECT_EQ(stream.answers.size(), 3u);
}

TEST_F(AnswersTest, OneErrorEndsAll) {
  StartWithWorker();
  std::atomic<int> cancelled = 0, followers = 0;
  worker_->SetScript(
      [&](grpc::ServerContext& context, const FakeWorker::Request& request, FakeWorker::Writer& writer) {
        followers += request.follows();
        EXPECT_EQ(request.follows(), request.options().sampling().seed() > 0);
        if (request.options().sampling().seed() == 2) {
          while (followers < 3) absl::SleepFor(absl::Milliseconds(1));
          return ToGrpc(absl::ResourceExhaustedError("[QUEUE_FULL] 5 requests wait, the limit is 5"));
        }
        FakeWorker::WriteStarted(writer, request);
        FakeWorker::WriteDelta(writer, 0, 1, "x");
        while (!context.IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
        ++cancelled;
        return grpc::Status::CANCELLED;
      });
  const Stream stream = Ask(Several(4, 8, 0));
  EXPECT_EQ(ReasonOf(stream.status), "QUEUE_FULL") << stream.status;
  EXPECT_EQ(followers, 3) << "workers are told, so that they refuse none of them";
  EXPECT_TRUE(Eventually([&] { return cancelled == 3; }));
}

TEST_F(AnswersTest, AnErrorOfTheFirstStartsNoOther) {
  StartWithWorker();
  worker_->SetScript([](grpc::ServerContext&, const FakeWorker::Request&, FakeWorker::Writer&) {
    return ToGrpc(absl::InvalidArgumentError("[UNSUPPORTED_SCHEMA] options.json_schema: what is that?"));
  });
  const Stream stream = Ask(Several(4, 8, 0));
  EXPECT_EQ(ReasonOf(stream.status), "UNSUPPORTED_SCHEMA") << stream.status;
  EXPECT_EQ(worker_->streams(), 1);
}

TEST_F(AnswersTest, ClientWhoLeavesEndsAll) {
  StartWithWorker();
  std::atomic<int> cancelled = 0;
  worker_->SetScript(
      [&](grpc::ServerContext& context, const FakeWorker::Request& request, FakeWorker::Writer& writer) {
        FakeWorker::WriteStarted(writer, request);
        FakeWorker::WriteDelta(writer, 0, 1, "x");
        while (!context.IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
        ++cancelled;
        return grpc::Status::CANCELLED;
      });
  grpc::ClientContext context;
  const v1::StreamGenerateRequest request = Several(5, 8, 0);
  auto reader = stub_->StreamGenerate(&context, request);
  ASSERT_TRUE(Eventually([&] { return worker_->streams() == 5; }));
  context.TryCancel();
  EXPECT_EQ(ReadStream(*reader).status.code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(Eventually([&] { return cancelled == 5; }));
}

}  // namespace
}  // namespace clamor
