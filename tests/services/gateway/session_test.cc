// Conversations that a gateway keeps, as clients see them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/services/gateway/session_fixture.h"

namespace clamor {
namespace {

using ::testing::ElementsAre;
using testing::FakeWorker;
using ::testing::HasSubstr;
using testing::HttpGet;

class SessionTest : public testing::SessionGatewayTest {
 protected:
  // The prompt that a conversation without a session would have.
  std::vector<uint32_t> PromptOf(const std::vector<std::pair<std::string, std::string>>& turns) {
    v1::TokenizeRequest request;
    for (const auto& [role, content] : turns) {
      v1::ChatMessage& message = *request.mutable_chat()->add_messages();
      message.set_role(role);
      message.set_content(content);
    }
    grpc::ClientContext context;
    v1::TokenizeResponse response;
    EXPECT_TRUE(stub_->Tokenize(&context, request, &response).ok());
    return {response.token_ids().begin(), response.token_ids().end()};
  }
  std::vector<uint32_t> PromptSeen() {
    const auto request = worker_->last_request();
    return {request.prompt_ids().begin(), request.prompt_ids().end()};
  }
};

TEST_F(SessionTest, AConversationGoesOn) {
  StartKeeping();
  v1::CreateSessionRequest request;
  request.set_name("s");
  request.add_messages()->set_role("system");
  request.mutable_messages(0)->set_content("be brief");
  EXPECT_EQ(Create(request)->version(), 1u);

  const Answer first = Chat(Say("s", "hello", 5));
  ASSERT_TRUE(first.status.ok()) << first.status;
  EXPECT_TRUE(first.continuous);
  EXPECT_EQ(first.starts, 1);
  EXPECT_EQ(first.finishes, 1);
  EXPECT_EQ(first.finished.session_version(), 2u);
  EXPECT_EQ(PromptSeen(), PromptOf({{"system", "be brief"}, {"user", "hello"}}));

  StartKeeping();  // a restart in between
  const Answer second = Chat(Say("s", "and then?"));
  ASSERT_TRUE(second.status.ok()) << second.status;
  EXPECT_EQ(second.finished.session_version(), 3u);
  EXPECT_EQ(
      PromptSeen(),
      PromptOf(
          {{"system", "be brief"}, {"user", "hello"}, {"assistant", first.text}, {"user", "and then?"}}));

  const auto turns = ExportTurns("s");
  ASSERT_TRUE(turns.ok()) << turns.status();
  ASSERT_EQ(turns->size(), 3u);
  const v1::TurnAnswer& kept = (*turns)[1].answer();
  EXPECT_EQ((*turns)[1].version(), 2u);
  EXPECT_EQ((*turns)[1].messages(0).content(), "hello");
  EXPECT_EQ(kept.request_id(), first.started.request_id());
  EXPECT_EQ(kept.model(), "tiny");
  EXPECT_EQ(kept.model_revision(), "r1");
  EXPECT_EQ(kept.seed(), 5u);
  EXPECT_EQ(kept.text(), first.text);
  EXPECT_EQ(std::vector<uint32_t>(kept.token_ids().begin(), kept.token_ids().end()), first.ids);
  EXPECT_EQ(kept.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(Find("s")->messages(), 5u);
}

TEST_F(SessionTest, UnaryCallsAddToItToo) {
  StartKeeping();
  ASSERT_TRUE(Create("s").ok());
  v1::ChatRequest request;
  *request.mutable_session() = Say("s", "").session();
  *request.mutable_messages() = Say("s", "hello").messages();
  *request.mutable_options() = Say("s", "").options();
  v1::ChatResponse response;
  ASSERT_TRUE(stub_->Chat(Context().get(), request, &response).ok());
  ASSERT_EQ(response.answers_size(), 1);
  EXPECT_EQ(response.answers(0).finished().session_version(), 1u);
  EXPECT_EQ((*ExportTurns("s"))[0].answer().text(), response.answers(0).text());
}

TEST_F(SessionTest, SecondComersAreTold) {
  StartKeeping();
  ASSERT_TRUE(Create("s").ok());
  // One is faster while the other's answer is under way.
  std::atomic<bool> go = false;
  worker_->SetScript(model_.Script([&](grpc::ServerContext&, const FakeWorker::Request& asked, uint64_t) {
    while (asked.options().sampling().seed() == 1 && !go) absl::SleepFor(absl::Milliseconds(1));
    return grpc::Status::OK;
  }));
  Answer slow;
  std::thread slower([&] { slow = Chat(Say("s", "slow", 1)); });
  ASSERT_TRUE(testing::Eventually([&] { return worker_->streams() == 1; }));
  EXPECT_EQ(Chat(Say("s", "fast", 2)).finished.session_version(), 1u);
  go = true;
  slower.join();
  EXPECT_EQ(slow.status.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(ReasonOf(slow.status), "SESSION_VERSION_CONFLICT");
  EXPECT_EQ(slow.finishes, 0);
  ASSERT_EQ(ExportTurns("s")->size(), 1u);
  // Who says what is expected is told before a worker is asked.
  v1::StreamChatRequest late = Say("s", "late");
  late.mutable_session()->set_expected_version(0);
  const Answer refused = Chat(late);
  EXPECT_EQ(ReasonOf(refused.status), "SESSION_VERSION_CONFLICT");
  EXPECT_THAT(refused.status.message(), HasSubstr("has version 1, expected 0"));
  EXPECT_EQ(refused.starts, 0);
  EXPECT_EQ(worker_->streams(), 2);
  late.mutable_session()->set_expected_version(1);
  EXPECT_EQ(Chat(late).finished.session_version(), 2u);
}

TEST_F(SessionTest, WhatDoesNotEndIsNotAdded) {
  StartKeeping();
  ASSERT_TRUE(Create("s").ok());
  worker_->SetScript(
      [](grpc::ServerContext&, const FakeWorker::Request& request, FakeWorker::Writer& writer) {
        FakeWorker::WriteStarted(writer, request);
        FakeWorker::WriteDelta(writer, 0, 1, "x");
        return grpc::Status(grpc::StatusCode::INTERNAL, "odd");
      });
  EXPECT_EQ(Chat(Say("s", "hello")).status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(Find("s")->version(), 0u);
}

TEST_F(SessionTest, AnothersAreNotThere) {
  StartKeeping();
  ASSERT_TRUE(Create("s", "a").ok());
  for (const std::string name : {"s", "none"}) {  // no hint which of them exists
    const std::string expected = absl::StrCat("[SESSION_NOT_FOUND] there is no session \"", name, "\"");
    EXPECT_EQ(Find(name, "b").status().message(), expected);
    EXPECT_EQ(ExportTurns(name, "b").status().message(), expected);
    EXPECT_EQ(Chat(Say(name, "x"), "b").status.message(), expected);
    v1::DeleteSessionRequest request;
    request.set_name(name);
    v1::DeleteSessionResponse response;
    EXPECT_EQ(FromGrpc(sessions_->DeleteSession(Context("b").get(), request, &response)).message(), expected);
  }
  EXPECT_TRUE(Create("s", "b").ok()) << "the name is free";
  EXPECT_EQ(ReasonOf(Create("s", "b").status()), "SESSION_EXISTS");
  EXPECT_EQ(worker_->streams(), 0);
}

TEST_F(SessionTest, ListsByPagesAndDeletes) {
  StartKeeping();
  std::set<std::string> all;
  for (int i = 0; i < 7; ++i) all.insert(Create("")->name());
  EXPECT_EQ(all.size(), 7u) << "names are made up";
  std::vector<std::string> listed;
  v1::ListSessionsRequest request;
  request.set_page_size(3);
  int pages = 0;
  do {
    v1::ListSessionsResponse response;
    ASSERT_TRUE(sessions_->ListSessions(Context().get(), request, &response).ok());
    for (const v1::Session& session : response.sessions()) listed.push_back(session.name());
    request.set_page_token(response.next_page_token());
    ++pages;
  } while (!request.page_token().empty());
  EXPECT_EQ(pages, 3);
  EXPECT_EQ(listed, std::vector<std::string>(all.begin(), all.end()));
  EXPECT_THAT(testing::HttpGet(gateway_->server().http_address(), "/metrics").body,
              HasSubstr("clamor_gateway_sessions 7"));
  v1::DeleteSessionRequest one;
  one.set_name(listed[0]);
  v1::DeleteSessionResponse response;
  EXPECT_TRUE(sessions_->DeleteSession(Context().get(), one, &response).ok());
  EXPECT_EQ(ReasonOf(Find(listed[0]).status()), "SESSION_NOT_FOUND");
  EXPECT_THAT(testing::HttpGet(gateway_->server().http_address(), "/metrics").body,
              HasSubstr("clamor_gateway_sessions 6"));
}

TEST_F(SessionTest, ExportsMoreThanItReadsAtOnce) {
  StartKeeping();
  worker_->SetScript(FakeWorker::Echo);
  ASSERT_TRUE(Create("s").ok());
  constexpr uint64_t kTurns = 17;
  for (uint64_t i = 0; i < kTurns; ++i) {
    v1::StreamChatRequest request = Say("s", absl::StrCat(i));
    request.mutable_options()->set_max_tokens(1);
    const Answer answer = Chat(request);
    ASSERT_TRUE(answer.status.ok()) << answer.status;
    ASSERT_EQ(answer.finished.session_version(), i + 1);
  }
  const auto turns = *ExportTurns("s");
  ASSERT_EQ(turns.size(), kTurns);
  for (uint64_t i = 0; i < kTurns; ++i) EXPECT_EQ(turns[i].messages(0).content(), absl::StrCat(i));
}

TEST_F(SessionTest, LimitsAreNamed) {
  StartKeeping();
  ASSERT_TRUE(Create("s").ok());
  const auto message = [](const absl::Status& status) { return std::string(status.message()); };
  EXPECT_THAT(message(Create("a b").status()), HasSubstr("name has characters other than"));
  EXPECT_THAT(message(Find("").status()), HasSubstr("name has 0 characters"));
  EXPECT_THAT(message(Find(std::string(129, 'x')).status()), HasSubstr("name has 129 characters"));
  EXPECT_THAT(message(Chat(Say("", "x")).status), HasSubstr("session.name has 0 characters"));
  v1::CreateSessionRequest create;
  create.mutable_ttl()->set_seconds(0);
  EXPECT_THAT(message(Create(create).status()), HasSubstr("ttl is 0 seconds, must be 1 to"));
  create.clear_ttl();
  create.add_messages()->set_role("nobody");
  EXPECT_THAT(message(Create(create).status()), HasSubstr("messages[0].role must be"));
  v1::StreamChatRequest chat = Say("s", std::string((1 << 20) + 1, 'x'));
  EXPECT_THAT(message(Chat(chat).status), HasSubstr("must have at most 1048576 in a session"));
  chat = Say("s", "x");
  chat.mutable_options()->set_n(2);
  EXPECT_THAT(message(Chat(chat).status), HasSubstr("options.n is 2, must be 1 with a session"));
  v1::ListSessionsRequest list;
  list.set_page_size(1001);
  v1::ListSessionsResponse response;
  EXPECT_THAT(message(FromGrpc(sessions_->ListSessions(Context().get(), list, &response))),
              HasSubstr("page_size is 1001, must be 1 to 1000"));
  create.clear_messages();
  for (int i = 0; i < 1023; ++i) create.add_messages()->set_role("user");
  create.set_name("full");
  ASSERT_TRUE(Create(create).ok());
  const absl::Status full = Chat(Say("full", "x")).status;
  EXPECT_EQ(ReasonOf(full), "STORE_FULL");
  EXPECT_THAT(message(full), HasSubstr("would have 1025 messages, limit 1024"));
}

TEST_F(SessionTest, AGatewayMayKeepNone) {
  StartWithWorker();
  sessions_ = v1::SessionService::NewStub(channel_);
  for (const absl::Status& status : {Create("s").status(), Find("s").status(), ExportTurns("s").status(),
                                     Chat(Say("s", "x")).status, Resume("0123456789abcdef").status}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
    EXPECT_THAT(status.message(), HasSubstr("--sessions"));
  }
  EXPECT_FALSE(Stream(IdsRequest({3, 4}, 2)).started.resumable());
}

}  // namespace
}  // namespace clamor
