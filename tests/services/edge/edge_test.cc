// The edge over real sockets and a core that the test scripts.
#include "services/edge/edge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "nlohmann/json.hpp"
#include "tests/services/edge/fake_core.h"
#include "tests/services/edge/raw_client.h"

namespace clamor::edge {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using testing::FakeCore;
using ::testing::HasSubstr;
using testing::RawClient;
using testing::RawResponse;

const char kChat[] = "/v1/chat/completions";
const char kBody[] = R"({"messages":[{"role":"user","content":"hi"}]})";
const char kStreamBody[] = R"({"stream":true,"messages":[{"role":"user","content":"hi"}]})";

bool Eventually(const std::function<bool()>& condition) {
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return true;
}

class EdgeTest : public ::testing::Test {
 protected:
  void Start(EdgeOptions options = {}) {
    options.listen = "127.0.0.1:0";
    options.threads = 2;
    auto edge = Edge::Bind(options);
    ASSERT_TRUE(edge.ok()) << edge.status();
    edge_ = *std::move(edge);
    edge_->Serve(&core_);
  }
  RawResponse Ask(const std::string& method, const std::string& path, const std::string& body = "",
                  const std::string& fields = "") {
    RawClient client(edge_->address());
    client.Request(method, path, body, fields);
    RawResponse response = client.Read();
    EXPECT_TRUE(response.complete || response.status == 204) << response.body;
    return response;
  }
  static std::string CodeOf(const RawResponse& response) {
    const json body = json::parse(response.body, nullptr, false);
    return body.is_object() && body["error"]["code"].is_string() ? body["error"]["code"].get<std::string>()
                                                                 : "";
  }
  // What follows "data: " in each event.
  static std::vector<std::string> EventsOf(const RawResponse& response) {
    std::vector<std::string> events = absl::StrSplit(response.body, "\n\n");
    EXPECT_EQ(events.back(), "");
    events.pop_back();
    for (std::string& event : events) {
      EXPECT_EQ(event.substr(0, 6), "data: ");
      event = event.substr(6);
    }
    return events;
  }
  static std::string TextOf(const std::vector<std::string>& events) {
    std::string text;
    for (const std::string& event : events) {
      const json chunk = json::parse(event, nullptr, false);
      if (chunk.is_object() && chunk.contains("choices") && !chunk["choices"].empty())
        text += chunk["choices"][0]["delta"].value("content", "");
    }
    return text;
  }

  FakeCore core_;
  std::unique_ptr<Edge> edge_;
};

TEST_F(EdgeTest, AnswersInOne) {
  Start();
  const RawResponse response = Ask("POST", kChat, kBody);
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.fields.at("content-type"), "application/json");
  EXPECT_EQ(json::parse(response.body)["choices"][0]["message"]["content"], "Hello");
  ASSERT_EQ(core_.callers().size(), 1u);
  EXPECT_EQ(response.fields.at("x-request-id"), core_.callers()[0].request_id) << "as logs have it";
  EXPECT_EQ(json::parse(response.body)["id"], "chatcmpl-" + core_.callers()[0].request_id);
  EXPECT_EQ(core_.callers()[0].tenant, "default");
  EXPECT_THAT(core_.rpcs(), ElementsAre("Chat"));
  const RawResponse completion =
      Ask("POST", "/v1/completions", R"({"prompt":"x"})", "X-Clamor-Tenant: t1\r\n");
  EXPECT_EQ(json::parse(completion.body)["choices"][0]["text"], "Hello");
  EXPECT_EQ(core_.callers()[1].tenant, "t1");
}

TEST_F(EdgeTest, AnswersAsAStream) {
  Start();
  const RawResponse response = Ask(
      "POST", kChat,
      R"({"stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hi"}]})");
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.fields.at("content-type"), "text/event-stream");
  const std::vector<std::string> events = EventsOf(response);
  ASSERT_EQ(events.size(), 6u);
  EXPECT_EQ(TextOf(events), "Hello");
  EXPECT_EQ(json::parse(events[3])["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(json::parse(events[4])["choices"], json::array());
  EXPECT_EQ(json::parse(events[4])["usage"]["completion_tokens"], 2);
  EXPECT_EQ(events[5], "[DONE]");
  EXPECT_THAT(core_.rpcs(), ElementsAre("StreamChat"));
}

TEST_F(EdgeTest, NothingIsSentBeforeAdmission) {
  absl::Notification admit;
  core_.SetScript([&](GenerationListener& listener, const auto& cancelled) {
    admit.WaitForNotification();
    return FakeCore::Say({"x"})(listener, cancelled);
  });
  Start();
  RawClient client(edge_->address());
  client.Request("POST", kChat, kStreamBody);
  ASSERT_TRUE(Eventually([&] { return core_.running() == 1; }));
  EXPECT_EQ(core_.held(), 1) << "the server waits for it";
  admit.Notify();
  EXPECT_EQ(client.Read().status, 200);

  core_.SetScript([](GenerationListener&, const auto&) { return Refusal("QUEUE_FULL", "7 wait, limit 7"); });
  const RawResponse refused = Ask("POST", kChat, kStreamBody);
  EXPECT_EQ(refused.status, 429) << "by the worker, and still by its status";
  EXPECT_EQ(refused.fields.at("retry-after"), "1");
  EXPECT_EQ(CodeOf(refused), "queue_full");
  EXPECT_TRUE(Eventually([&] { return core_.held() == 0; }));
}

TEST_F(EdgeTest, AnErrorInMidStreamIsItsLastEvent) {
  core_.SetScript([](GenerationListener& listener, const auto&) {
    listener.OnStarted({});
    listener.OnDelta(FakeCore::DeltaOf("Hel"));
    return Refusal("NO_COMPATIBLE_WORKER", "all are gone");
  });
  Start();
  const RawResponse response = Ask("POST", kChat, kStreamBody);
  EXPECT_EQ(response.status, 200);
  const std::vector<std::string> events = EventsOf(response);
  EXPECT_EQ(TextOf(events), "Hel");
  EXPECT_EQ(json::parse(events.back())["error"]["code"], "no_compatible_worker");
  const RawResponse whole = Ask("POST", kChat, kBody);
  EXPECT_EQ(whole.status, 503);
  EXPECT_EQ(CodeOf(whole), "no_compatible_worker");
}

TEST_F(EdgeTest, RefusalsHaveTheirStatusAndAreCounted) {
  Start();
  EXPECT_EQ(CodeOf(Ask("POST", kChat, R"({"model":"busy","messages":[{"role":"user","content":"x"}]})")),
            "queue_full");
  const RawResponse field =
      Ask("POST", kChat, R"({"max_tokens":101,"messages":[{"role":"user","content":"x"}]})");
  EXPECT_EQ(field.status, 400);
  EXPECT_EQ(json::parse(field.body)["error"]["param"], "max_tokens");
  EXPECT_TRUE(core_.refusals().empty()) << "the core counts its own";
  EXPECT_EQ(Ask("POST", kChat, "{").status, 400);
  EXPECT_EQ(json::parse(Ask("POST", kChat, R"({"messages":[],"tools":[]})").body)["error"]["param"], "tools");
  EXPECT_EQ(core_.refusals().size(), 2u);
  EXPECT_EQ(CodeOf(Ask("GET", "/v2/x")), "unknown_url");
  EXPECT_EQ(CodeOf(Ask("GET", kChat)), "method_not_allowed");
  EXPECT_EQ(CodeOf(Ask("POST", "/v1/models", "{}")), "method_not_allowed");
}

TEST_F(EdgeTest, ModelsAndThePage) {
  Start();
  EXPECT_EQ(json::parse(Ask("GET", "/v1/models?x=1").body)["data"][0]["id"], "tiny");
  EXPECT_EQ(json::parse(Ask("GET", "/v1/models/tiny").body)["object"], "model");
  EXPECT_EQ(CodeOf(Ask("GET", "/v1/models/huge")), "model_not_found");
  const RawResponse page = Ask("GET", "/");
  EXPECT_EQ(page.status, 200);
  EXPECT_THAT(page.fields.at("content-security-policy"), HasSubstr("default-src 'none'"));
  EXPECT_THAT(page.body, HasSubstr("<html"));
  RawClient head(edge_->address());
  head.Request("HEAD", "/", "", "Connection: close\r\n");
  const RawResponse without_body = head.Read();
  EXPECT_EQ(without_body.status, 200);
  EXPECT_EQ(without_body.fields.at("content-length"), page.fields.at("content-length"));
  EXPECT_EQ(without_body.body, "");
}

TEST_F(EdgeTest, HealthIsWhetherAModelIsReady) {
  core_.SetKey("secret");
  Start();
  EXPECT_EQ(Ask("GET", "/health").status, 200);
  EXPECT_EQ(CodeOf(Ask("POST", "/health", "{}")), "method_not_allowed");
  core_.SetReady(false);
  const RawResponse unready = Ask("GET", "/health");
  EXPECT_EQ(unready.status, 503);
  EXPECT_EQ(CodeOf(unready), "no_worker");
}

TEST_F(EdgeTest, ThePageMayBeOff) {
  Start({.page = false});
  EXPECT_EQ(CodeOf(Ask("GET", "/")), "unknown_url");
}

TEST_F(EdgeTest, WantsAKeyIfTheCoreDoes) {
  core_.SetKey("secret");
  Start();
  for (const char* path : {kChat, "/v1/models"}) {
    const std::string method = path == kChat ? "POST" : "GET";
    const std::string body = path == kChat ? kBody : "";
    const RawResponse refused = Ask(method, path, body);
    EXPECT_EQ(refused.status, 401);
    EXPECT_EQ(refused.fields.at("www-authenticate"), "Bearer");
    EXPECT_EQ(Ask(method, path, body, "Authorization: Bearer wrong\r\n").status, 401);
    EXPECT_EQ(Ask(method, path, body, "Authorization: Bearer secret\r\n").status, 200);
  }
  EXPECT_THAT(Ask("GET", "/").body, HasSubstr("data-needs-key=\"true\""));
}

TEST_F(EdgeTest, HostsAndOrigins) {
  Start({.origins = {"https://app.example"}});
  RawClient rebound(edge_->address());
  rebound.Send("GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n");
  EXPECT_EQ(rebound.Read().status, 421);
  EXPECT_EQ(Ask("POST", kChat, kBody, "Origin: https://evil.example\r\n").status, 403);
  EXPECT_TRUE(core_.callers().empty());
  const RawResponse foreign = Ask("POST", kChat, kBody, "Origin: https://app.example\r\n");
  EXPECT_EQ(foreign.status, 200);
  EXPECT_EQ(foreign.fields.at("access-control-allow-origin"), "https://app.example");
  EXPECT_EQ(foreign.fields.at("vary"), "Origin");
  const RawResponse own = Ask("POST", kChat, kBody, "Origin: http://localhost\r\n");
  EXPECT_EQ(own.status, 200);
  EXPECT_FALSE(own.fields.contains("access-control-allow-origin"));
  const RawResponse preflight =
      Ask("OPTIONS", kChat, "", "Origin: https://app.example\r\nAccess-Control-Request-Method: POST\r\n");
  EXPECT_EQ(preflight.status, 204);
  EXPECT_THAT(preflight.fields.at("access-control-allow-headers"), HasSubstr("authorization"));
  EXPECT_EQ(Ask("OPTIONS", kChat, "", "Origin: https://evil.example\r\n").status, 403);
}

TEST_F(EdgeTest, ConnectionsAreUsedAgainAndRequestsMayComeAhead) {
  Start();
  RawClient client(edge_->address());
  for (int i = 0; i < 3; ++i) {
    client.Request("POST", kChat, i % 2 == 0 ? kStreamBody : kBody);
    EXPECT_EQ(client.Read().status, 200);
  }
  for (int i = 0; i < 20; ++i) client.Request("POST", kChat, i % 2 == 0 ? kStreamBody : kBody);
  for (int i = 0; i < 20; ++i) {
    const RawResponse response = client.Read();
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.fields.contains("transfer-encoding"), i % 2 == 0);
  }
  client.Request("GET", "/v1/models", "", "Connection: close\r\n");
  EXPECT_EQ(client.Read().fields.at("connection"), "close");
  EXPECT_TRUE(client.ReadEnd());
}

TEST_F(EdgeTest, OldAndCarefulClients) {
  Start();
  RawClient old(edge_->address());
  old.Send(absl::StrCat("POST ", kChat, " HTTP/1.0\r\nHost: localhost\r\nContent-Length: ",
                        sizeof(kStreamBody) - 1, "\r\n\r\n", kStreamBody));
  const RawResponse response = old.Read();
  EXPECT_EQ(response.status, 200);
  EXPECT_FALSE(response.fields.contains("transfer-encoding"));
  EXPECT_EQ(EventsOf(response).back(), "[DONE]");
  RawClient careful(edge_->address());
  careful.Send(absl::StrCat("POST ", kChat,
                            " HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: ",
                            sizeof(kBody) - 1, "\r\n\r\n"));
  absl::SleepFor(absl::Milliseconds(50));
  careful.Send(kBody);
  EXPECT_EQ(careful.Read().status, 200);
}

TEST_F(EdgeTest, AClientThatHangsUpEndsItsGeneration) {
  for (const bool begun : {false, true}) {
    for (const char* body : {kBody, kStreamBody}) {
      core_.SetScript([begun](GenerationListener& listener, const auto& cancelled) {
        if (begun) {
          listener.OnStarted({});
          listener.OnDelta(FakeCore::DeltaOf("x"));
        }
        while (cancelled().ok()) absl::SleepFor(absl::Milliseconds(1));
        return cancelled();
      });
      if (edge_ == nullptr) Start();
      const int before = core_.cancelled();
      RawClient client(edge_->address());
      client.Request("POST", kChat, body);
      ASSERT_TRUE(Eventually([&] { return core_.running() == 1; }));
      client.Close();
      EXPECT_TRUE(Eventually([&] { return core_.cancelled() == before + 1 && core_.running() == 0; }));
      EXPECT_TRUE(Eventually([&] { return core_.held() == 0; }));
    }
  }
}

TEST_F(EdgeTest, ASlowReaderIsCutOff) {
  std::atomic<size_t> said = 0;
  core_.SetScript([&](GenerationListener& listener, const auto& cancelled) {
    listener.OnStarted({});
    while (cancelled().ok() && said < (256u << 20)) {
      listener.OnDelta(FakeCore::DeltaOf(std::string(1000, 'x')));
      said += 1000;
    }
    return cancelled();
  });
  Start({.max_pending_bytes = 100'000});
  RawClient client(edge_->address(), /*receive_buffer=*/4096);
  client.Request("POST", kChat, kStreamBody);
  ASSERT_TRUE(Eventually([&] { return core_.cancelled() == 1; }));
  const RawResponse response = client.Read();
  EXPECT_TRUE(response.complete);
  EXPECT_EQ(json::parse(EventsOf(response).back())["error"]["code"], "slow_consumer");
}

TEST_F(EdgeTest, EventsArePaddedAndSayTheSame) {
  core_.SetScript(FakeCore::Say({"Hello", "", std::string(600, 'x')}));  // the second has nothing to show
  const auto choices = [](const std::vector<std::string>& events) {
    std::vector<std::string> texts;
    for (const std::string& event : events) {
      texts.push_back(event == "[DONE]" ? event : json::parse(event)["choices"].dump());
    }
    return texts;
  };
  Start();
  const std::vector<std::string> plain = choices(EventsOf(Ask("POST", kChat, kStreamBody)));
  ASSERT_EQ(plain.size(), 5u);  // a role, two texts, a reason, [DONE]
  for (const size_t pad : {1, 7, 100, 512, 16384}) {
    Start({.pad_bytes = pad});
    const RawResponse response = Ask("POST", kChat, kStreamBody);
    std::vector<std::string> data;
    size_t begin = 0, comments = 0;
    for (size_t end; (end = response.body.find("\n\n", begin)) != std::string::npos; begin = end + 2) {
      EXPECT_EQ((end + 2 - begin) % pad, 0u);
      EXPECT_LT(end + 2 - begin, 1000 + pad);
      for (const absl::string_view line : absl::StrSplit(response.body.substr(begin, end - begin), '\n')) {
        if (line[0] == ':') {
          ++comments;
        } else {
          ASSERT_EQ(line.substr(0, 6), "data: ");
          data.emplace_back(line.substr(6));
        }
      }
    }
    EXPECT_EQ(begin, response.body.size());
    EXPECT_EQ(choices(data), plain);
    EXPECT_EQ(comments, plain.size() + 2);  // of the second text, and of usage, which nobody asked for
  }
  EXPECT_TRUE(core_.callers().back().streams);
}

TEST_F(EdgeTest, TracesArePassedOn) {
  Start();
  const std::string parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  for (const std::string& fields :
       {"traceparent: " + parent + "\r\ntracestate: a=1\r\nTraceState: b=2\r\n",
        std::string("traceparent: nonsense\r\n"),
        "traceparent: " + parent + "\r\ntraceparent: " + parent + "\r\n", std::string()}) {
    EXPECT_EQ(Ask("POST", kChat, kBody, fields).status, 200);
  }
  const auto callers = core_.callers();
  ASSERT_EQ(callers.size(), 4u);
  EXPECT_EQ(callers[0].trace.Traceparent(), parent);
  EXPECT_EQ(callers[0].trace.state, "a=1,b=2");
  EXPECT_FALSE(callers[0].streams);
  for (size_t i = 1; i < 4; ++i) EXPECT_FALSE(callers[i].trace.valid());
}

TEST_F(EdgeTest, LimitsOfTheRequest) {
  EdgeOptions options;
  options.connection.max_body_bytes = 10'000;
  options.connection.body = absl::Milliseconds(300);
  options.connection.head = absl::Milliseconds(300);
  options.connection.idle = absl::Milliseconds(300);
  Start(options);
  EXPECT_EQ(CodeOf(Ask("POST", kChat, std::string(10'001, ' '))), "request_too_large");
  EXPECT_EQ(Ask("POST", kChat, std::string(10'000, ' ')).status, 400) << "it was read";
  RawClient chunks(edge_->address());
  chunks.Send(
      absl::StrCat("POST ", kChat, " HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"));
  for (int i = 0; i < 30; ++i) chunks.Send(absl::StrCat("3e8\r\n", std::string(1000, ' '), "\r\n"));
  EXPECT_EQ(chunks.Read().status, 413);
  EXPECT_EQ(CodeOf(Ask("GET", "/" + std::string(100'000, 'x'))), "malformed_request");
  RawClient nonsense(edge_->address());
  nonsense.Send("hello\r\n\r\n");
  EXPECT_EQ(nonsense.Read().status, 400);
  EXPECT_TRUE(nonsense.ReadEnd());
  // Who says nothing, or stops in the middle, is forgotten.
  for (const std::string& bytes :
       {std::string(), std::string("POST /v1"),
        absl::StrCat("POST ", kChat, " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")}) {
    RawClient silent(edge_->address());
    silent.Send(bytes);
    EXPECT_EQ(silent.Read().status, 0);
  }
}

TEST_F(EdgeTest, TooManyConnectionsAreToldSo) {
  Start({.max_connections = 3});
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < 3; ++i) {
    clients.push_back(std::make_unique<RawClient>(edge_->address()));
    clients.back()->Request("GET", "/v1/models", "");
    EXPECT_EQ(clients.back()->Read().status, 200);
  }
  RawClient more(edge_->address());
  const RawResponse refused = more.Read();
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(CodeOf(refused), "too_many_connections");
  EXPECT_EQ(refused.fields.at("retry-after"), "1");
  clients.pop_back();
  EXPECT_TRUE(Eventually([&] {
    RawClient again(edge_->address());
    again.Request("GET", "/v1/models", "");
    return again.Read().status == 200;
  }));
}

TEST_F(EdgeTest, ClosingTellsWhoeverIsServed) {
  core_.SetScript([](GenerationListener& listener, const auto& cancelled) {
    listener.OnStarted({});
    while (cancelled().ok()) absl::SleepFor(absl::Milliseconds(1));
    return cancelled();
  });
  Start();
  RawClient stream(edge_->address()), whole(edge_->address()), idle(edge_->address());
  stream.Request("POST", kChat, kStreamBody);
  whole.Request("POST", kChat, kBody);
  idle.Request("GET", "/v1/models", "");
  EXPECT_EQ(idle.Read().status, 200);
  ASSERT_TRUE(Eventually([&] { return core_.running() == 2; }));
  std::thread closer([&] { edge_->Close(); });
  const RawResponse cut = stream.Read();
  EXPECT_EQ(json::parse(EventsOf(cut).back())["error"]["code"], "draining");
  EXPECT_EQ(CodeOf(whole.Read()), "draining");
  EXPECT_TRUE(idle.ReadEnd());
  stream.Close();
  whole.Close();
  closer.join();
  EXPECT_EQ(core_.held(), 0);
}

// Whatever comes, the next client is served.
TEST_F(EdgeTest, BrokenRequestsHurtNobody) {
  EdgeOptions options;
  options.connection.head = options.connection.body = absl::Milliseconds(200);
  Start(options);
  const std::string request = absl::StrCat(
      "POST ", kChat, " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ",
      sizeof(kStreamBody) - 1, "\r\n\r\n", kStreamBody);
  std::mt19937 random(3);
  for (int i = 0; i < 300; ++i) {
    std::string bytes = request.substr(0, random() % (request.size() + 1));
    for (uint32_t changes = random() % 4; changes > 0 && !bytes.empty(); --changes)
      bytes[random() % bytes.size()] = static_cast<char>(random());
    RawClient client(edge_->address());
    client.Send(bytes);
    if (i % 10 == 0) client.Read();
  }
  EXPECT_EQ(Ask("POST", kChat, kBody).status, 200);
  EXPECT_TRUE(Eventually([&] { return core_.held() == 0 && core_.running() == 0; }));
}

TEST(EdgeBindTest, SaysWhatIsWrong) {
  for (const char* listen : {"localhost", "somewhere:1", "127.0.0.1:x", "127.0.0.1:70000", ":"}) {
    const auto edge = Edge::Bind({.listen = listen});
    EXPECT_FALSE(edge.ok()) << listen;
    EXPECT_THAT(std::string(edge.status().message()), HasSubstr("--api"));
  }
  const auto first = Edge::Bind({.listen = "127.0.0.1:0"});
  ASSERT_TRUE(first.ok());
  EXPECT_FALSE(Edge::Bind({.listen = (*first)->address()}).ok()) << "it is taken";
}

}  // namespace
}  // namespace clamor::edge
