#include "services/edge/openai_answer.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace clamor::edge {
namespace {

using nlohmann::json;

class OpenAiAnswerTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    tokenizer_ = Tokenizer::Load(*TokenizerFiles::Read(CLAMOR_TESTDATA "/tiny-qwen2")).value();
  }

  static std::vector<int32_t> Encode(const std::string& text) {
    return tokenizer_->Encode(text, {.add_specials = false}).value();
  }
  static OpenAiAnswer Make(ApiKind kind, const ReplyForm& form, uint32_t answers = 1) {
    return OpenAiAnswer({.kind = kind,
                         .request_id = "r1",
                         .model = "m",
                         .created = absl::FromUnixSeconds(99),
                         .answers = answers},
                        form, tokenizer_);
  }
  static v1::Started StartedOf(uint32_t choice = 0) {
    v1::Started started;
    started.set_choice(choice);
    started.set_seed(7 + choice);
    started.set_model_revision("rev");
    started.set_prompt_tokens(5);
    started.set_cached_tokens(choice == 0 ? 3 : 4);
    return started;
  }
  static v1::Delta DeltaOf(const std::vector<int32_t>& ids, const std::string& text, uint32_t choice = 0) {
    v1::Delta delta;
    delta.set_choice(choice);
    delta.set_text(text);
    for (size_t i = 0; i < ids.size(); ++i) {
      delta.add_token_ids(static_cast<uint32_t>(ids[i]));
      delta.add_sources(i % 2 == 0 ? v1::DRAFT_SOURCE_CONTEXT : v1::DRAFT_SOURCE_UNSPECIFIED);
    }
    return delta;
  }
  static v1::Finished FinishedOf(v1::FinishReason reason, uint32_t choice = 0) {
    v1::Finished finished;
    finished.set_choice(choice);
    finished.set_reason(reason);
    finished.mutable_speculation()->set_forwards(2);
    finished.mutable_speculation()->set_draft_nodes(9);
    finished.mutable_speculation()->mutable_accepted()->set_context(1);
    return finished;
  }

  static std::shared_ptr<const Tokenizer> tokenizer_;
};

std::shared_ptr<const Tokenizer> OpenAiAnswerTest::tokenizer_;

TEST_F(OpenAiAnswerTest, AChatStream) {
  OpenAiAnswer answer = Make(ApiKind::kChat, {.stream = true, .usage_last = true});
  EXPECT_EQ(json::parse(answer.Chunk(StartedOf())), json::parse(R"({
    "id": "chatcmpl-r1", "object": "chat.completion.chunk", "created": 99, "model": "m", "system_fingerprint": "rev", "usage": null,
    "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": null, "finish_reason": null}]})"));
  EXPECT_EQ(json::parse(answer.Chunk(DeltaOf({1, 2}, "hé")))["choices"], json::parse(R"(
    [{"index": 0, "delta": {"content": "hé"}, "logprobs": null, "finish_reason": null}])"));
  EXPECT_EQ(answer.Chunk(DeltaOf({1}, "")), "") << "nothing to show";
  EXPECT_EQ(json::parse(answer.Chunk(FinishedOf(v1::FINISH_REASON_LENGTH)))["choices"], json::parse(R"(
    [{"index": 0, "delta": {}, "logprobs": null, "finish_reason": "length"}])"));
  const json usage = json::parse(answer.UsageChunk());
  EXPECT_EQ(usage["choices"], json::array());
  EXPECT_EQ(usage["usage"], json::parse(R"({"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8,
    "prompt_tokens_details": {"cached_tokens": 3}})"));
}

TEST_F(OpenAiAnswerTest, UsageIsSaidWhereItIsAskedFor) {
  OpenAiAnswer silent = Make(ApiKind::kChat, {.stream = true});
  EXPECT_FALSE(json::parse(silent.Chunk(StartedOf())).contains("usage"));
  EXPECT_EQ(silent.UsageChunk(), "");
  OpenAiAnswer always = Make(ApiKind::kCompletion, {.stream = true, .usage_always = true});
  EXPECT_EQ(always.Chunk(StartedOf()), "") << "completions have no role";
  const json chunk = json::parse(always.Chunk(DeltaOf({1, 2}, "x")));
  EXPECT_EQ(chunk["object"], "text_completion");
  EXPECT_EQ(chunk["id"], "cmpl-r1");
  EXPECT_EQ(chunk["choices"][0]["text"], "x");
  EXPECT_EQ(chunk["usage"]["completion_tokens"], 2);
}

TEST_F(OpenAiAnswerTest, WholeAnswersOfSeveral) {
  OpenAiAnswer answer = Make(ApiKind::kChat, {.stats = true}, 2);
  answer.Gather(StartedOf(0));
  answer.Gather(DeltaOf({1, 2}, "ab", 0));
  answer.Gather(StartedOf(1));
  answer.Gather(DeltaOf({3}, "x", 1));
  answer.Gather(DeltaOf({4}, "c", 0));
  answer.Gather(FinishedOf(v1::FINISH_REASON_STOP, 1));
  answer.Gather(FinishedOf(v1::FINISH_REASON_LENGTH, 0));
  const json whole = json::parse(answer.Whole());
  EXPECT_EQ(whole["object"], "chat.completion");
  ASSERT_EQ(whole["choices"].size(), 2u);
  EXPECT_EQ(whole["choices"][0]["message"],
            json::parse(R"({"role": "assistant", "content": "abc", "refusal": null})"));
  EXPECT_EQ(whole["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(whole["choices"][1]["message"]["content"], "x");
  EXPECT_EQ(whole["choices"][1]["finish_reason"], "stop");
  EXPECT_EQ(whole["choices"][1]["clamor"]["seed"], 8);
  EXPECT_EQ(whole["choices"][0]["clamor"]["accepted"]["context"], 1);
  EXPECT_EQ(whole["usage"]["completion_tokens"], 4);
  EXPECT_EQ(whole["usage"]["prompt_tokens"], 5) << "which was read once";
  EXPECT_EQ(whole["usage"]["prompt_tokens_details"]["cached_tokens"], 3) << "the first answer's";
}

TEST_F(OpenAiAnswerTest, LogprobsOfChats) {
  OpenAiAnswer answer = Make(ApiKind::kChat, {.stream = true, .logprobs = true, .top_logprobs = 2});
  const std::vector<int32_t> ids = Encode("🙂");  // whose bytes are tokens of their own
  ASSERT_GT(ids.size(), 1u);
  v1::Delta delta = DeltaOf(ids, "");
  for (size_t i = 0; i < ids.size(); ++i) {
    v1::TokenLogprobs& logprobs = *delta.add_logprobs();
    logprobs.set_logprob(-0.5f);
    for (const int32_t id : {ids[0], ids[1]}) {
      logprobs.add_top()->set_token_id(static_cast<uint32_t>(id));
      logprobs.mutable_top()->rbegin()->set_logprob(-0.25f);
    }
  }
  const json content = json::parse(answer.Chunk(delta))["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), ids.size()) << "also where the text lags";
  std::string bytes;
  for (const json& token : content) {
    EXPECT_EQ(token["logprob"], -0.5);
    ASSERT_EQ(token["top_logprobs"].size(), 2u);
    EXPECT_EQ(token["top_logprobs"][0]["bytes"], content[0]["bytes"]);
    EXPECT_EQ(token["top_logprobs"][1]["bytes"], content[1]["bytes"]);
    EXPECT_NE(token["token"], "") << "replacement characters";
    for (const json& byte : token["bytes"]) bytes += static_cast<char>(byte.get<int>());
  }
  EXPECT_EQ(bytes, "🙂");
}

TEST_F(OpenAiAnswerTest, LogprobsOfCompletions) {
  OpenAiAnswer answer = Make(ApiKind::kCompletion, {.logprobs = true, .top_logprobs = 1});
  const std::vector<int32_t> ids = Encode("one two");
  answer.Gather(StartedOf());
  for (const int32_t id : ids) {
    v1::Delta delta = DeltaOf({id}, "");
    delta.add_logprobs()->set_logprob(-1);
    delta.mutable_logprobs(0)->add_top()->set_token_id(static_cast<uint32_t>(ids[0]));
    answer.Gather(delta);
  }
  answer.Gather(FinishedOf(v1::FINISH_REASON_STOP));
  const json logprobs = json::parse(answer.Whole())["choices"][0]["logprobs"];
  ASSERT_EQ(logprobs["tokens"].size(), ids.size());
  std::string text;
  for (size_t i = 0; i < ids.size(); ++i) {
    EXPECT_EQ(logprobs["text_offset"][i], text.size());
    EXPECT_EQ(logprobs["token_logprobs"][i], -1);
    EXPECT_EQ(logprobs["top_logprobs"][i], (json{{tokenizer_->TokenBytes(ids[0]), 0}}));
    text += logprobs["tokens"][i].get<std::string>();
  }
  EXPECT_EQ(text, "one two");
}

TEST_F(OpenAiAnswerTest, TokensWithTheirSourcesAndTrees) {
  OpenAiAnswer answer = Make(ApiKind::kChat, {.stream = true, .stats = true, .tokens = true, .trees = true});
  const std::string text = "naïve 🙂 text";
  const std::vector<int32_t> ids = Encode(text);
  std::string shown;
  size_t tokens = 0;
  for (size_t i = 0; i < ids.size(); i += 2) {
    const std::vector<int32_t> piece(ids.begin() + i, ids.begin() + std::min(i + 2, ids.size()));
    v1::Delta delta = DeltaOf(piece, "");
    v1::TracedTree& tree = *delta.add_trees();
    tree.set_first_token_index(i);
    for (const int32_t id : piece) {
      tree.add_token_ids(static_cast<uint32_t>(id));
      tree.add_parents(tree.parents_size());
      tree.add_sources(v1::DRAFT_SOURCE_STORE);
    }
    tree.add_accepted(0);
    const json extension = json::parse(answer.Chunk(delta))["choices"][0]["clamor"];
    for (const json& token : extension["tokens"]) {
      EXPECT_EQ(token["id"], ids[tokens]);
      EXPECT_EQ(token["source"], tokens % 2 == 0 ? "context" : "model");
      shown += token["text"].get<std::string>();
      ++tokens;
    }
    ASSERT_EQ(extension["trees"].size(), 1u);
    EXPECT_EQ(extension["trees"][0]["first_token_index"], i);
    EXPECT_EQ(extension["trees"][0]["accepted"], json::array({0}));
    EXPECT_EQ(extension["trees"][0]["nodes"].size(), piece.size());
    EXPECT_EQ(extension["trees"][0]["nodes"][0]["source"], "store");
    EXPECT_EQ(extension["trees"][0]["nodes"].back()["parent"], piece.size() - 1);
  }
  EXPECT_EQ(tokens, ids.size());
  EXPECT_EQ(shown, text) << "bytes of a character show with the token that completes it";
  const json last = json::parse(answer.Chunk(FinishedOf(v1::FINISH_REASON_STOP)))["choices"][0];
  EXPECT_EQ(last["clamor"]["forwards"], 2);
  EXPECT_EQ(last["clamor"]["draft_nodes"], 9);
}

TEST_F(OpenAiAnswerTest, Models) {
  v1::ListModelsResponse models;
  models.add_models()->set_name("a");
  models.mutable_models(0)->set_max_context_tokens(512);
  EXPECT_EQ(json::parse(ModelList(models, absl::FromUnixSeconds(99))),
            json::parse(R"({"object": "list", "data": [
    {"id": "a", "object": "model", "created": 99, "owned_by": "clamor", "max_model_len": 512}]})"));
}

}  // namespace
}  // namespace clamor::edge
