#include "services/edge/openai_request.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "google/protobuf/text_format.h"
#include "nlohmann/json.hpp"
#include "services/rpc_error.h"

namespace clamor::edge {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

const char kMessages[] = R"("messages":[{"role":"user","content":"hi"}])";

std::string Chat(const std::string& fields) { return absl::StrCat("{", kMessages, ",", fields, "}"); }
std::string Completion(const std::string& fields) { return absl::StrCat(R"({"prompt":"hi",)", fields, "}"); }

template <class Message>
std::string TextOf(const Message& message) {
  std::string text;
  google::protobuf::TextFormat::Printer printer;
  printer.SetSingleLineMode(true);
  printer.PrintToString(message, &text);
  return text;
}

v1::GenerationOptions ChatOptions(const std::string& fields) {
  const auto call = ParseChat(Chat(fields));
  EXPECT_TRUE(call.ok()) << call.status();
  return call.ok() ? call->request.options() : v1::GenerationOptions();
}

// The message of the error that a request with these fields is refused with.
std::string ChatError(const std::string& fields) {
  const auto call = ParseChat(Chat(fields));
  EXPECT_FALSE(call.ok()) << fields;
  EXPECT_EQ(ReasonOf(call.status()), "INVALID_FIELD");
  return std::string(call.status().message());
}
std::string CompletionError(const std::string& fields) {
  const auto call = ParseCompletion(Completion(fields));
  EXPECT_FALSE(call.ok()) << fields;
  return std::string(call.status().message());
}

TEST(OpenAiRequestTest, AChatWithEverything) {
  const auto call = ParseChat(R"({
    "model": "m", "messages": [
      {"role": "developer", "content": "be brief"},
      {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
      {"role": "assistant", "content": "c", "refusal": null, "annotations": [], "tool_calls": null, "audio": null}],
    "max_completion_tokens": 9, "max_tokens": 5, "temperature": 0.5, "top_p": 0.25, "min_p": 0.125, "top_k": 3,
    "repetition_penalty": 1.5, "presence_penalty": 1, "frequency_penalty": -1, "seed": 7, "logit_bias": {"5": -100, "6": 2},
    "n": 2, "min_tokens": 1, "stop": ["x", "y"], "stop_token_ids": [8], "ignore_eos": true, "store": false,
    "logprobs": true, "top_logprobs": 4, "stream": true,
    "stream_options": {"include_usage": true, "continuous_usage_stats": false},
    "user": "u", "metadata": {"a": "b"}, "service_tier": "auto", "tools": null,
    "clamor": {"nodes": 16, "tree": "published", "draft_scope": "none", "priority": "high", "tokens": true, "trees": true}})");
  ASSERT_TRUE(call.ok()) << call.status();
  v1::ChatRequest expected;
  ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(R"(
    model: "m"
    messages { role: "system" content: "be brief" } messages { role: "user" content: "ab" } messages { role: "assistant" content: "c" }
    options {
      max_tokens: 9
      sampling {
        temperature: 0.5 top_p: 0.25 min_p: 0.125 top_k: 3 repetition_penalty: 1.5 presence_penalty: 1 frequency_penalty: -1 seed: 7
        logit_bias { key: 5 value: -100 } logit_bias { key: 6 value: 2 }
      }
      n: 2 min_tokens: 1 stop: "x" stop: "y" stop_token_ids: 8 ignore_eos: true store: false top_logprobs: 4
      speculation { nodes: 16 tree: DRAFT_TREE_PUBLISHED } draft_scope: DRAFT_SCOPE_NONE priority: PRIORITY_HIGH trace_drafts: true
    })",
                                                            &expected));
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(call->request, expected))
      << TextOf(call->request) << "\n"
      << TextOf(expected);
  EXPECT_TRUE(call->form.stream && call->form.usage_last && call->form.logprobs && call->form.stats &&
              call->form.tokens && call->form.trees);
  EXPECT_FALSE(call->form.usage_always);
  EXPECT_EQ(call->form.top_logprobs, 4u);
}

TEST(OpenAiRequestTest, DefaultsAreThoseOfOpenAi) {
  const auto chat = ParseChat(Chat(R"("model":null)"));
  ASSERT_TRUE(chat.ok());
  EXPECT_EQ(TextOf(chat->request.options()), "sampling { temperature: 1 } ")
      << "and no limit of tokens";
  const auto completion = ParseCompletion(R"({"prompt":"hi"})");
  ASSERT_TRUE(completion.ok());
  EXPECT_EQ(completion->request.options().max_tokens(), 16u);
  EXPECT_EQ(completion->request.options().sampling().temperature(), 1.0f);
  EXPECT_FALSE(completion->form.stream || completion->form.logprobs || completion->form.stats);
}

TEST(OpenAiRequestTest, Prompts) {
  EXPECT_EQ(ParseCompletion(R"({"prompt":"a"})")->request.text(), "a");
  EXPECT_EQ(ParseCompletion(R"({"prompt":["a"]})")->request.text(), "a");
  EXPECT_EQ(TextOf(ParseCompletion(R"({"prompt":[1,2]})")->request.token_ids()), "ids: 1 ids: 2 ");
  EXPECT_EQ(TextOf(ParseCompletion(R"({"prompt":[[1,2]]})")->request.token_ids()), "ids: 1 ids: 2 ");
  EXPECT_TRUE(ParseCompletion(R"({"prompt":[]})")->request.has_token_ids()) << "which the gateway refuses";
  const auto error = [](const char* body) { return std::string(ParseCompletion(body).status().message()); };
  EXPECT_THAT(error(R"({})"), StartsWith("prompt is not set"));
  EXPECT_THAT(error(R"({"prompt":7})"), StartsWith("prompt is 7"));
  EXPECT_THAT(error(R"({"prompt":["a","b"]})"), StartsWith("prompt has 2 prompts"));
  EXPECT_THAT(error(R"({"prompt":[1,-2]})"), StartsWith("prompt[1] is -2"));
  EXPECT_THAT(error(R"({"prompt":[1,4294967296]})"), StartsWith("prompt[1] is 4294967296"));
  EXPECT_THAT(error(R"({"prompt":[1,1.5]})"), StartsWith("prompt[1] is 1.5"));
}

TEST(OpenAiRequestTest, CompletionsOfTheirOwn) {
  const auto call = ParseCompletion(Completion(R"("logprobs":0,"best_of":1,"echo":false,"suffix":null)"));
  ASSERT_TRUE(call.ok()) << call.status();
  EXPECT_TRUE(call->form.logprobs);
  EXPECT_TRUE(call->request.options().has_top_logprobs());
  EXPECT_EQ(call->request.options().top_logprobs(), 0u);
  EXPECT_THAT(CompletionError(R"("echo":true)"), StartsWith("echo is true"));
  EXPECT_THAT(CompletionError(R"("suffix":"x")"), StartsWith("suffix is not supported"));
  EXPECT_THAT(CompletionError(R"("best_of":3)"), StartsWith("best_of is 3"));
  EXPECT_THAT(CompletionError(R"("logprobs":true)"), StartsWith("logprobs is true"));
  EXPECT_THAT(CompletionError(R"("messages":[])"), StartsWith("messages is not supported"));
}

TEST(OpenAiRequestTest, WhatIsNotSupportedIsRefusedByItsName) {
  for (const char* field :
       {"tools", "tool_choice", "functions", "function_call", "parallel_tool_calls", "modalities", "audio",
        "prediction", "reasoning_effort", "web_search_options", "prompt", "top_q"}) {
    EXPECT_EQ(ChatError(absl::StrCat("\"", field, "\":[1]")), absl::StrCat(field, " is not supported"));
    EXPECT_TRUE(ParseChat(Chat(absl::StrCat("\"", field, "\":null"))).ok()) << "null is absent";
  }
  EXPECT_EQ(ChatError(R"("stream":true,"stream_options":{"x":1})"), "stream_options.x is not supported");
  EXPECT_EQ(ChatError(R"("clamor":{"speed":9})"), "clamor.speed is not supported");
  EXPECT_EQ(ChatError(R"("response_format":{"type":"text","x":1})"), "response_format.x is not supported");
  const auto message = [](const char* fields) {
    return std::string(
        ParseChat(absl::StrCat(R"({"messages":[{"role":"user",)", fields, "}]}")).status().message());
  };
  EXPECT_EQ(message(R"("content":"x","name":"Bob")"), "messages[0].name is not supported");
  EXPECT_EQ(message(R"("content":"x","tool_calls":[{}])"), "messages[0].tool_calls is not supported");
  EXPECT_THAT(message(R"("content":[{"type":"image_url","image_url":{"url":"x"}}])"),
              StartsWith(R"(messages[0].content[0].type is "image_url")"));
  EXPECT_THAT(message(R"("content":null)"), StartsWith("messages[0].content is not set"));
}

TEST(OpenAiRequestTest, WrongTypesNameTheField) {
  const std::pair<const char*, const char*> cases[] = {
      {R"("temperature":"hot")", "temperature is \"hot\", must be a number"},
      {R"("n":1.5)", "n is 1.5, must be a whole number"},
      {R"("n":-1)", "n is -1"},
      {R"("max_tokens":4294967296)", "max_tokens is 4294967296"},
      {R"("seed":1.5)", "seed is 1.5"},
      {R"("seed":"1")", "seed is \"1\""},
      {R"("stop":7)", "stop is 7"},
      {R"("stop":["a",7])", "stop[1] is 7"},
      {R"("logit_bias":[1])", "logit_bias is [1]"},
      {R"("logit_bias":{"x":1})", "logit_bias is \"x\""},
      {R"("logit_bias":{"-1":1})", "logit_bias is \"-1\""},
      {R"("logit_bias":{"01":1})", "logit_bias is \"01\""},
      {R"("logit_bias":{"1":"a"})", "logit_bias[1] is \"a\""},
      {R"("stream":"yes")", "stream is \"yes\""},
      {R"("stream_options":{"include_usage":true})", "stream_options is set"},
      {R"("top_logprobs":3)", "top_logprobs is set"},
      {R"("ignore_eos":1)", "ignore_eos is 1"},
      {R"("stop_token_ids":5)", "stop_token_ids is 5"},
      {R"("stop_token_ids":[-5])", "stop_token_ids[0] is -5"},
      {R"("clamor":1)", "clamor is 1"},
      {R"("clamor":{"tree":"oak"})", "clamor.tree is \"oak\", must be merged or published"},
      {R"("clamor":{"trees":true})", "clamor.trees is true"},
      {R"("clamor":{"nodes":-2})", "clamor.nodes is -2"},
      {R"("metadata":{"a":{}})", "metadata is"},
      {R"("user":["a"])", "user is"},
      {R"("response_format":"json")", "response_format is \"json\""},
      {R"("response_format":{})", "response_format.type is null"},
      {R"("response_format":{"type":"xml"})", "response_format.type is \"xml\""},
      {R"("response_format":{"type":"json_schema"})", "response_format.json_schema is not set"},
      {R"("response_format":{"type":"json_schema","json_schema":{}})",
       "response_format.json_schema.schema is not set"},
      {R"("response_format":{"type":"json_schema","json_schema":{"schema":7}})",
       "response_format.json_schema.schema is 7"}};
  for (const auto& [fields, error] : cases) EXPECT_THAT(ChatError(fields), StartsWith(error)) << fields;
  for (const char* body :
       {"", "[]", "7", "{", "{\"messages\":[]", "nul", "\xff", "{\"messages\":\"\xff\"}", "{} x"}) {
    EXPECT_THAT(std::string(ParseChat(body).status().message()), StartsWith("body")) << body;
  }
  EXPECT_THAT(std::string(ParseChat(R"({"messages":7})").status().message()), StartsWith("messages is 7"));
  EXPECT_THAT(std::string(ParseChat(R"({"messages":[7]})").status().message()),
              StartsWith("messages[0] is 7"));
}

TEST(OpenAiRequestTest, SeedsMayBeAnyInteger) {
  EXPECT_EQ(ChatOptions(R"("seed":18446744073709551615)").sampling().seed(), 18446744073709551615u);
  EXPECT_EQ(ChatOptions(R"("seed":-1)").sampling().seed(), 18446744073709551615u);
  EXPECT_TRUE(ChatOptions(R"("seed":0)").sampling().has_seed());
  EXPECT_FALSE(ChatOptions(R"("seed":null)").sampling().has_seed());
}

TEST(OpenAiRequestTest, SchemasKeepTheirOrder) {
  EXPECT_EQ(ChatOptions(R"("response_format":{"type":"json_object"})").json_schema(), R"({"type":"object"})");
  EXPECT_FALSE(ChatOptions(R"("response_format":{"type":"text"})").has_json_schema());
  const std::string schema =
      R"({"type":"object","properties":{"zebra":{"type":"string"},"ant":{"type":"integer"}},"required":["zebra"]})";
  EXPECT_EQ(
      ChatOptions(
          absl::StrCat(
              R"("response_format":{"type":"json_schema","json_schema":{"name":"n","strict":true,"schema":)",
              schema, "}}"))
          .json_schema(),
      schema);
  std::string wide = R"({"properties":{)";
  for (int i = 0; i < 20000; ++i) absl::StrAppend(&wide, i > 0 ? "," : "", "\"p", i, "\":{}");
  EXPECT_THAT(ChatError(absl::StrCat(R"("response_format":{"type":"json_schema","json_schema":{"schema":)",
                                     wide, "}}}}")),
              HasSubstr("limit 65535"));
}

TEST(OpenAiRequestTest, DeepAndBrokenBodiesAreRefused) {
  const std::string deep = std::string(100000, '[') + std::string(100000, ']');
  EXPECT_THAT(std::string(ParseChat(deep).status().message()), StartsWith("body"));
  EXPECT_FALSE(ParseChat(Chat(absl::StrCat("\"metadata\":", deep))).ok());
  // Cut and changed bodies end with a status, whatever they say.
  const std::string whole = Chat(
      R"("seed":-5,"stop":["\u00e9","\ud83d\ude00"],"logit_bias":{"5":1e2},"response_format":{"type":"json_schema","json_schema":{"schema":{"type":"object","properties":{"a":{"enum":[1,"x",null]}}}}},"clamor":{"nodes":3})");
  ASSERT_TRUE(ParseChat(whole).ok()) << ParseChat(whole).status();
  std::mt19937 random(1);
  int parsed = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string body = whole.substr(0, i % 2 == 0 ? whole.size() : random() % whole.size());
    for (uint32_t changes = random() % 3; changes > 0 && !body.empty(); --changes)
      body[random() % body.size()] = static_cast<char>(random());
    parsed += ParseChat(body).ok();
    parsed += ParseCompletion(body).ok();
  }
  EXPECT_GT(parsed, 100) << "some changes do no harm";
}

}  // namespace
}  // namespace clamor::edge
