// Streams whose clients have lost them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "absl/strings/str_cat.h"
#include "tests/services/gateway/session_fixture.h"

namespace clamor {
namespace {

using testing::Eventually;
using testing::FakeWorker;
using ::testing::HasSubstr;

class ResumeTest : public testing::SessionGatewayTest {
 protected:
  static v1::StreamGenerateRequest Request(uint32_t max_tokens = 30) {
    v1::StreamGenerateRequest request = IdsRequest({3, 4, 5}, max_tokens);
    request.mutable_options()->mutable_sampling()->set_temperature(1);  // with a seed of the gateway's
    return request;
  }
  // Sees `tokens` tokens of a stream, at least, and is gone. Its text is whole up to there.
  template <class Request>
  Answer Lose(const Request& request, size_t tokens) {
    Answer got;
    const auto context = Context();
    const auto read = [&](auto reader, auto response) {
      while (got.ids.size() < tokens && reader->Read(&response)) {
        if (response.has_started()) got.started = response.started();
        if (!response.has_delta()) continue;
        got.ids.insert(got.ids.end(), response.delta().token_ids().begin(),
                       response.delta().token_ids().end());
        got.text += response.delta().text();
      }
      context->TryCancel();
      while (reader->Read(&response)) {
      }
      reader->Finish().ok();
      EXPECT_TRUE(Eventually([&] { return NoneOpen(); }));  // else the worker might still be heard to its end
    };
    if constexpr (requires { request.messages(); }) {
      read(stub_->StreamChat(context.get(), request), v1::StreamChatResponse());
    } else {
      read(stub_->StreamGenerate(context.get(), request), v1::StreamGenerateResponse());
    }
    return got;
  }
  // The workers' streams do not end before this is taken back.
  void HoldEnds() {
    hold_ = true;
    worker_->SetScript(
        model_.Script([this](grpc::ServerContext& context, const FakeWorker::Request&, uint64_t i) {
          while (hold_ && i >= 10 && !context.IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
          return context.IsCancelled() ? grpc::Status::CANCELLED : grpc::Status::OK;
        }));
  }
  std::atomic<bool> hold_ = false;
};

TEST_F(ResumeTest, GoesOnAtAnyToken) {
  StartKeeping();
  const Answer whole = Stream(Request());
  ASSERT_TRUE(whole.status.ok()) << whole.status;
  EXPECT_TRUE(whole.started.resumable());
  const std::string id = whole.started.request_id();
  for (const bool restarted : {false, true}) {
    if (restarted) StartKeeping();
    for (size_t tokens = 0; tokens <= whole.ids.size(); ++tokens) {
      const Answer rest = Resume(id, tokens);
      ASSERT_TRUE(rest.status.ok()) << rest.status;
      EXPECT_EQ(rest.starts, 1);
      EXPECT_EQ(rest.finishes, 1);
      EXPECT_TRUE(rest.continuous);
      EXPECT_EQ(rest.ids,
                std::vector<uint32_t>(whole.ids.begin() + static_cast<long>(tokens), whole.ids.end()));
      EXPECT_EQ(rest.text, whole.text);
      EXPECT_EQ(rest.started.request_id(), id);
      EXPECT_EQ(rest.started.seed(), whole.started.seed());
      EXPECT_EQ(rest.started.model(), "tiny");
      EXPECT_TRUE(rest.started.resumable());
      EXPECT_EQ(rest.finished.SerializeAsString(), whole.finished.SerializeAsString());
    }
    for (size_t bytes = 0; bytes <= whole.text.size(); ++bytes) {
      const Answer rest = Resume(id, whole.ids.size(), bytes);
      if (bytes < whole.text.size() && (static_cast<unsigned char>(whole.text[bytes]) & 0xC0) == 0x80) {
        EXPECT_EQ(ReasonOf(rest.status), "INVALID_FIELD");
        EXPECT_THAT(rest.status.message(), HasSubstr("next_text_byte"));
        continue;
      }
      ASSERT_TRUE(rest.status.ok()) << rest.status;
      EXPECT_TRUE(rest.continuous);
      EXPECT_EQ(rest.text, whole.text.substr(bytes));
      EXPECT_TRUE(rest.ids.empty());
    }
  }
}

TEST_F(ResumeTest, AClientThatIsGoneGetsTheRest) {
  StartKeeping();
  for (const size_t tokens : {1, 5, 9}) {
    HoldEnds();
    const Answer part = Lose(Request(), tokens);
    hold_ = false;
    const Answer rest = Resume(part.started.request_id(), part.ids.size(), part.text.size());
    const Answer whole = Resume(part.started.request_id());
    ASSERT_TRUE(rest.status.ok()) << rest.status;
    EXPECT_TRUE(rest.continuous);
    std::vector<uint32_t> ids = part.ids;
    ids.insert(ids.end(), rest.ids.begin(), rest.ids.end());
    EXPECT_EQ(ids, whole.ids);
    EXPECT_EQ(part.text + rest.text, whole.text);
    EXPECT_EQ(ids.size(), 30u);
  }
}

TEST_F(ResumeTest, WhileItRuns) {
  StartKeeping();
  HoldEnds();
  const auto context = Context();
  auto reader = stub_->StreamGenerate(context.get(), Request());
  v1::StreamGenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  ASSERT_TRUE(response.has_started());
  hold_ = false;
  const Answer again = Resume(response.started().request_id());
  const Answer first = ReadAll(*reader);
  EXPECT_EQ(again.ids, first.ids);
  EXPECT_EQ(again.text, first.text);
}

TEST_F(ResumeTest, EachOfSeveralAnswers) {
  StartKeeping();
  v1::StreamGenerateRequest request = Request();
  request.mutable_options()->set_n(3);
  std::vector<std::vector<uint32_t>> answers(3);
  std::string id;
  const auto context = Context();
  auto reader = stub_->StreamGenerate(context.get(), request);
  for (v1::StreamGenerateResponse response; reader->Read(&response);) {
    if (response.has_started()) {
      EXPECT_TRUE(response.started().resumable());
      id = response.started().request_id();
    }
    std::vector<uint32_t>& ids = answers[response.delta().choice()];
    ids.insert(ids.end(), response.delta().token_ids().begin(), response.delta().token_ids().end());
  }
  ASSERT_TRUE(reader->Finish().ok());
  for (uint32_t choice = 0; choice < 3; ++choice) {
    const Answer rest = Resume(id, 4, 0, choice);
    ASSERT_TRUE(rest.status.ok()) << rest.status;
    EXPECT_TRUE(rest.continuous);
    EXPECT_EQ(rest.ids, std::vector<uint32_t>(answers[choice].begin() + 4, answers[choice].end()));
  }
  EXPECT_THAT(std::string(Resume(id, 0, 0, 3).status.message()),
              HasSubstr("choice is 3, the stream has 3 answers"));
}

TEST_F(ResumeTest, WhoHasMoreThanThereIsIsTold) {
  StartKeeping();
  const Answer whole = Stream(Request());
  const std::string id = whole.started.request_id();
  EXPECT_THAT(std::string(Resume(id, 31).status.message()),
              HasSubstr("next_token_index is 31, the answer has 30"));
  EXPECT_THAT(std::string(Resume(id, 0, whole.text.size() + 1).status.message()),
              HasSubstr("next_text_byte is"));
}

TEST_F(ResumeTest, OthersStreamsAndUnknownOnesAreNotThere) {
  StartKeeping();
  const Answer mine = Stream(Request(), "a");
  const std::string id = mine.started.request_id();
  EXPECT_TRUE(Resume(id, 0, 0, 0, "a").status.ok());
  for (const std::string& other :
       {id, std::string("0000000000000000"), std::string(), std::string("a/b"), std::string(1000, 'x')}) {
    const Answer none = Resume(other, 0, 0, 0, "b");
    EXPECT_EQ(none.status.code(), absl::StatusCode::kNotFound);
    EXPECT_EQ(ReasonOf(none.status), "STREAM_NOT_FOUND");
    EXPECT_EQ(none.starts, 0);
  }
}

TEST_F(ResumeTest, ForATime) {
  StartKeeping({.sessions = {.stream_ttl = absl::Milliseconds(50)}});
  const std::string id = Stream(Request()).started.request_id();
  EXPECT_TRUE(Eventually([&] { return ReasonOf(Resume(id).status) == "STREAM_NOT_FOUND"; }));
  StartKeeping({.sessions = {.stream_ttl = absl::ZeroDuration()}});
  const Answer never = Stream(Request());
  EXPECT_FALSE(never.started.resumable());
  EXPECT_EQ(ReasonOf(Resume(never.started.request_id()).status), "STREAM_NOT_FOUND");
}

TEST_F(ResumeTest, OnlyFromAnEqualModel) {
  StartKeeping();
  const std::string id = Stream(Request()).started.request_id();
  worker_ = std::make_unique<FakeWorker>(0, "tiny", model_.Script(), "r2");
  StartKeeping();
  const Answer other = Resume(id);
  EXPECT_EQ(other.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(other.status), "NO_COMPATIBLE_WORKER");
}

TEST_F(ResumeTest, TheLengthStaysThatOfTheFirstWorker) {
  StartKeeping();
  v1::StreamGenerateRequest request = Request();
  request.mutable_options()->clear_max_tokens();  // the worker decides, as the next one might otherwise
  const Answer whole = Stream(request);
  ASSERT_EQ(whole.ids.size(), testing::ScriptedModel::kDefaultMaxTokens);
  EXPECT_EQ(Resume(whole.started.request_id()).ids, whole.ids);
  EXPECT_EQ(worker_->last_request().options().max_tokens(), testing::ScriptedModel::kDefaultMaxTokens);
}

TEST_F(ResumeTest, ATurnIsAddedOnce) {
  StartKeeping();
  ASSERT_TRUE(Create("s").ok());
  const Answer whole = Chat(Say("s", "hello"));
  EXPECT_TRUE(whole.started.resumable());
  for (int i = 0; i < 2; ++i) {
    const Answer again = Resume(whole.started.request_id(), 3);
    ASSERT_TRUE(again.status.ok()) << again.status;
    EXPECT_EQ(again.finished.session_version(), 1u);
  }
  EXPECT_EQ(Find("s")->version(), 1u);
  ASSERT_EQ(Chat(Say("s", "more")).finished.session_version(), 2u);
  EXPECT_EQ(Resume(whole.started.request_id()).finished.session_version(), 1u) << "still that turn";

  HoldEnds();  // one that did not come to its end
  const Answer part = Lose(Say("s", "lost"), 2);
  hold_ = false;
  EXPECT_EQ(Find("s")->version(), 2u);
  StartKeeping();
  const Answer rest = Resume(part.started.request_id(), part.ids.size(), part.text.size());
  ASSERT_TRUE(rest.status.ok()) << rest.status;
  EXPECT_EQ(rest.finished.session_version(), 3u);
  const auto turns = *ExportTurns("s");
  EXPECT_EQ(turns[2].messages(0).content(), "lost");
  EXPECT_EQ(turns[2].answer().text(), part.text + rest.text);
  EXPECT_EQ(turns[2].answer().token_ids_size(), 20);
}

}  // namespace
}  // namespace clamor
