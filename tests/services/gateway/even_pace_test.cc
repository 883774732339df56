#include "services/gateway/even_pace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/services/gateway/gateway_fixture.h"

namespace clamor {
namespace {

using ::testing::ElementsAre;
using testing::Eventually;
using testing::FakeWorker;

v1::Delta DeltaOf(uint32_t choice, uint64_t index, uint64_t byte, const std::string& text) {
  v1::Delta delta;
  delta.set_choice(choice);
  delta.set_first_token_index(index);
  delta.set_first_text_byte(byte);
  for (size_t i = 0; i < text.size(); ++i) delta.add_token_ids(7);
  delta.set_text(text);
  return delta;
}

// Checks that each answer comes without gaps.
class Heard final : public GenerationListener {
 public:
  struct Of {
    int starts = 0, deltas = 0, empty = 0, finishes = 0;
    uint64_t tokens = 0;
    std::string text;
  };
  void OnStarted(v1::Started started) override {
    absl::MutexLock lock(&mu_);
    ++answers_[started.choice()].starts;
  }
  void OnDelta(v1::Delta delta) override {
    absl::MutexLock lock(&mu_);
    Of& answer = answers_[delta.choice()];
    EXPECT_EQ(delta.first_token_index(), answer.tokens);
    EXPECT_EQ(delta.first_text_byte(), answer.text.size());
    EXPECT_EQ(answer.starts, 1);
    EXPECT_EQ(answer.finishes, 0);
    ++answer.deltas;
    answer.empty += delta.token_ids_size() == 0 ? 1 : 0;
    answer.tokens += static_cast<uint64_t>(delta.token_ids_size());
    answer.text += delta.text();
  }
  void OnFinished(v1::Finished finished) override {
    absl::MutexLock lock(&mu_);
    ++answers_[finished.choice()].finishes;
  }
  void OnEnded(const absl::Status& status) override {
    absl::MutexLock lock(&mu_);
    ends_.push_back(status.ToString());
  }
  Of answer(uint32_t choice) const {
    absl::MutexLock lock(&mu_);
    return answers_[choice];
  }
  std::vector<std::string> ends() const {
    absl::MutexLock lock(&mu_);
    return ends_;
  }

 private:
  mutable absl::Mutex mu_;
  Of answers_[2];
  std::vector<std::string> ends_;
};

TEST(EvenPaceTest, WhatComesBetweenTwoBeatsIsOne) {
  Heard heard;
  EvenPace pace(absl::Milliseconds(200), 2, &heard);
  for (uint32_t choice : {0, 1}) {
    v1::Started started;
    started.set_choice(choice);
    pace.OnStarted(started);
    EXPECT_EQ(heard.answer(choice).starts, 1);  // at once
  }
  for (uint64_t i = 0; i < 60; ++i) pace.OnDelta(DeltaOf(0, i, i, "x"));
  pace.OnDelta(DeltaOf(1, 0, 0, "abc"));
  ASSERT_TRUE(Eventually([&] { return heard.answer(0).tokens == 60 && heard.answer(1).tokens == 3; }));
  EXPECT_LE(heard.answer(0).deltas - heard.answer(0).empty, 10);
  // And silence sounds like anything else.
  const int empty = heard.answer(1).empty;
  ASSERT_TRUE(Eventually([&] { return heard.answer(1).empty >= empty + 2; }));
  for (uint32_t choice : {0, 1}) {
    v1::Finished finished;
    finished.set_choice(choice);
    pace.OnFinished(finished);
  }
  pace.OnEnded(absl::OkStatus());
  ASSERT_TRUE(Eventually([&] { return !heard.ends().empty(); }));
  EXPECT_THAT(heard.ends(), ElementsAre("OK"));
  EXPECT_EQ(heard.answer(0).finishes, 1);
  EXPECT_EQ(heard.answer(1).finishes, 1);
  EXPECT_EQ(heard.answer(1).text, "abc");
}

TEST(EvenPaceTest, WhatNeverStartedEndsAtOnce) {
  Heard heard;
  EvenPace pace(absl::Hours(1), 1, &heard);
  pace.OnEnded(absl::UnavailableError("no"));
  EXPECT_EQ(heard.ends().size(), 1u);
}

TEST(EvenPaceTest, AnErrorEndsIt) {
  Heard heard;
  EvenPace pace(absl::Milliseconds(1), 1, &heard);
  pace.OnStarted({});
  pace.OnDelta(DeltaOf(0, 0, 0, "abc"));
  pace.OnEnded(absl::UnavailableError("no"));
  ASSERT_TRUE(Eventually([&] { return !heard.ends().empty(); }));
  EXPECT_EQ(heard.answer(0).text, "abc");
  EXPECT_EQ(heard.answer(0).finishes, 0);
}

TEST(PadTest, EveryMessageIsAMultiple) {
  for (const size_t bytes : {1, 2, 16, 100, 1024}) {
    for (size_t size = 0; size < 1500; ++size) {
      v1::StreamGenerateResponse response;
      response.mutable_delta()->set_text(std::string(size, 'x'));
      const size_t before = response.ByteSizeLong();
      Pad(bytes, &response);
      ASSERT_EQ(response.ByteSizeLong() % bytes, 0u) << bytes << " " << size;
      ASSERT_LT(response.ByteSizeLong(), before + 2 * bytes + 8) << bytes << " " << size;
      ASSERT_EQ(response.delta().text().size(), size);
    }
  }
  v1::StreamGenerateResponse response;
  response.mutable_delta()->set_text("x");
  Pad(0, &response);
  EXPECT_TRUE(response.padding().empty());
}

class EvenStreamTest : public testing::GatewayTest {};

TEST_F(EvenStreamTest, OneTokenLooksLikeTen) {
  FakeWorker worker;
  GatewayLimits limits;
  limits.evenness = {.cadence = absl::Milliseconds(20), .pad_bytes = 256};
  StartGateway({worker.address()}, limits);
  ASSERT_TRUE(Eventually([&] { return Ready(); }));
  for (const uint32_t tokens : {1u, 10u}) {
    grpc::ClientContext context;
    auto reader = stub_->StreamGenerate(&context, IdsRequest({1, 2, 3}, tokens));
    uint32_t seen = 0;
    for (v1::StreamGenerateResponse response; reader->Read(&response);) {
      EXPECT_EQ(response.ByteSizeLong(), 256u) << response.ShortDebugString();
      seen += static_cast<uint32_t>(response.delta().token_ids_size());
    }
    EXPECT_TRUE(reader->Finish().ok());
    EXPECT_EQ(seen, tokens);
  }
}

}  // namespace
}  // namespace clamor
