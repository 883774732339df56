// Whole streams at an even pace and padded: their clients get what they would have got.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "services/gateway/even_pace.h"
#include "tests/services/gateway/session_fixture.h"

namespace clamor {
namespace {

using testing::Eventually;
using testing::FakeWorker;
using testing::kContext;

GatewayLimits Even(absl::Duration cadence, size_t pad_bytes) {
  GatewayLimits limits;
  limits.evenness = {.cadence = cadence, .pad_bytes = pad_bytes};
  return limits;
}

// Tokens i + 1, texts of their last digits, in steps of 1, 2, ... 9, 1, ... tokens.
grpc::Status Count(grpc::ServerContext&, const FakeWorker::Request& request, FakeWorker::Writer& writer) {
  FakeWorker::WriteStarted(writer, request);
  const uint32_t tokens = request.options().max_tokens();
  for (uint32_t done = 0, step = 0; done < tokens; step = (step + 1) % 9) {
    v1::WorkerServiceStreamGenerateResponse response;
    v1::Delta& delta = *response.mutable_delta();
    delta.set_first_token_index(done);
    for (uint32_t i = 0; i <= step && done < tokens; ++i, ++done) {
      delta.add_token_ids(done + 1);
      delta.add_sources(v1::DRAFT_SOURCE_CONTEXT);
      delta.mutable_text()->push_back(static_cast<char>('0' + done % 10));
    }
    writer.Write(response);
  }
  FakeWorker::WriteFinished(writer);
  return grpc::Status::OK;
}

class EvenStreamTest : public testing::SessionGatewayTest {};

TEST_F(EvenStreamTest, ClientsGetTheSameInMessagesOfOneSize) {
  for (const absl::Duration cadence : {absl::ZeroDuration(), absl::Milliseconds(1), absl::Milliseconds(30)}) {
    gateway_.reset();
    StartWithWorker(Even(cadence, 256));
    worker_->SetScript(Count);
    for (const uint32_t tokens : {1u, 9u, 50u}) {
      v1::StreamGenerateRequest request = IdsRequest({1, 2, 3}, tokens);
      request.mutable_options()->set_n(3);
      grpc::ClientContext context;
      auto reader = stub_->StreamGenerate(&context, request);
      std::vector<std::vector<uint32_t>> ids(3);
      std::vector<std::string> texts(3);
      std::vector<int> starts(3), finishes(3);
      for (v1::StreamGenerateResponse response; reader->Read(&response);) {
        EXPECT_EQ(response.ByteSizeLong(), 256u) << response.ShortDebugString();
        if (response.has_started()) ++starts[response.started().choice()];
        if (response.has_finished()) ++finishes[response.finished().choice()];
        if (!response.has_delta()) continue;
        const v1::Delta& delta = response.delta();
        EXPECT_EQ(delta.first_token_index(), ids[delta.choice()].size());
        EXPECT_EQ(finishes[delta.choice()], 0);
        ids[delta.choice()].insert(ids[delta.choice()].end(), delta.token_ids().begin(),
                                   delta.token_ids().end());
        texts[delta.choice()] += delta.text();
      }
      EXPECT_TRUE(reader->Finish().ok());
      for (size_t i = 0; i < 3; ++i) {
        EXPECT_EQ(starts[i], 1);
        EXPECT_EQ(finishes[i], 1);
        ASSERT_EQ(ids[i].size(), tokens);
        for (uint32_t token = 0; token < tokens; ++token) {
          EXPECT_EQ(ids[i][token], token + 1);
          EXPECT_EQ(texts[i][token], static_cast<char>('0' + token % 10));
        }
      }
    }
  }
}

TEST_F(EvenStreamTest, WhatIsNotAStreamComesAsItIs) {
  StartWithWorker(Even(absl::Hours(1), 256));
  v1::GenerateRequest request;
  request.mutable_token_ids()->add_ids(3);
  request.mutable_options()->set_max_tokens(3);
  v1::GenerateResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->Generate(&context, request, &response).ok());
  EXPECT_EQ(response.answers(0).token_ids_size(), 3);
}

TEST_F(EvenStreamTest, AClientThatGoesIsForgottenAtOnce) {
  StartWithWorker(Even(absl::Hours(1), 256));
  absl::Notification cancelled;
  worker_->SetScript([&](auto& context, const auto& request, auto& writer) {
    FakeWorker::WriteStarted(writer, request);
    FakeWorker::WriteDelta(writer, 0, 1, "x");
    while (!context.IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
    cancelled.Notify();
    return grpc::Status::CANCELLED;
  });
  grpc::ClientContext context;
  auto reader = stub_->StreamGenerate(&context, IdsRequest({1}, 5));
  v1::StreamGenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_TRUE(response.has_started());
  context.TryCancel();
  EXPECT_FALSE(reader->Finish().ok());
  EXPECT_TRUE(cancelled.WaitForNotificationWithTimeout(absl::Seconds(20)));
  EXPECT_TRUE(Eventually([&] { return NoneOpen(); }));
}

TEST_F(EvenStreamTest, AnErrorComesAtOnceAfterWhatWaits) {
  StartWithWorker(Even(absl::Hours(1), 256));
  worker_->SetScript([&](auto&, const auto& request, auto& writer) {
    FakeWorker::WriteStarted(writer, request);
    FakeWorker::WriteDelta(writer, 0, 1, "x");
    return grpc::Status(grpc::StatusCode::INTERNAL, "broken");
  });
  const Answer answer = Stream(IdsRequest({1}, 5));
  EXPECT_EQ(answer.status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(answer.text, "x");
  EXPECT_TRUE(answer.continuous);
}

TEST_F(EvenStreamTest, SlowConsumerIsCutOff) {
  for (const absl::Duration cadence : {absl::Milliseconds(5), absl::Hours(1)}) {
    gateway_.reset();
    GatewayLimits limits = Even(cadence, 256);
    limits.max_pending_bytes = 256 << 10;
    StartWithWorker(limits);
    uint64_t sent = 0;
    const Answer answer = ReadLate(std::string(24 << 10, 'z'), &sent);
    EXPECT_EQ(ReasonOf(answer.status), "SLOW_CONSUMER") << answer.status;
    EXPECT_TRUE(answer.continuous);
    EXPECT_LT(answer.text.size(), sent);
  }
}

TEST_F(EvenStreamTest, ResumedStreamsGoOnWhereTheyWere) {
  StartKeeping(Even(absl::Milliseconds(1), 256));
  v1::StreamGenerateRequest request = IdsRequest({3, 4, 5}, 30);
  const Answer whole = Stream(request);
  ASSERT_TRUE(whole.status.ok()) << whole.status;
  EXPECT_TRUE(whole.started.resumable());
  for (size_t tokens = 0; tokens <= whole.ids.size(); tokens += 5) {
    const Answer rest = Resume(whole.started.request_id(), tokens);
    ASSERT_TRUE(rest.status.ok()) << rest.status;
    EXPECT_TRUE(rest.continuous);
    EXPECT_EQ(rest.ids,
              std::vector<uint32_t>(whole.ids.begin() + static_cast<long>(tokens), whole.ids.end()));
    EXPECT_EQ(rest.text, whole.text);
  }
}

TEST_F(EvenStreamTest, NoBeatOutlivesItsGateway) {
  for (int round = 0; round < 5; ++round) {
    gateway_.reset();
    StartWithWorker(Even(absl::Milliseconds(1), 256));
    std::atomic<bool> stop = false;
    worker_->SetScript([&](auto& context, const auto& request, auto& writer) {
      FakeWorker::WriteStarted(writer, request);
      for (uint64_t i = 0; !stop && !context.IsCancelled();) {
        if (i < kContext - 1) FakeWorker::WriteDelta(writer, i++, 1, "x");  // there is no room for more
        absl::SleepFor(absl::Microseconds(300));
      }
      return grpc::Status::CANCELLED;
    });
    std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
    std::vector<std::unique_ptr<grpc::ClientReader<v1::StreamGenerateResponse>>> readers;
    for (int i = 0; i < 8; ++i) {
      contexts.push_back(Context());
      readers.push_back(stub_->StreamGenerate(contexts.back().get(), IdsRequest({1}, 400)));
      v1::StreamGenerateResponse response;
      for (int message = 0; message < 3; ++message) ASSERT_TRUE(readers.back()->Read(&response));
    }
    gateway_.reset();
    stop = true;
    for (auto& reader : readers) {
      for (v1::StreamGenerateResponse response; reader->Read(&response);) {
      }
      EXPECT_FALSE(reader->Finish().ok());
    }
    worker_->Stop();
  }
}

TEST_F(EvenStreamTest, FlagsThatDoNotGoTogetherAreRefused) {
  const auto gateway =
      Gateway::Start({.name = "clamor-gateway", .listen = "127.0.0.1:0", .http = "127.0.0.1:0"},
                     {"127.0.0.1:1"}, Even(absl::Milliseconds(100), 0));
  EXPECT_EQ(gateway.status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace clamor
