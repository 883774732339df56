#include "model/train/record_encoder.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/model/train/testing.h"

namespace clamor {
namespace {

using ::testing::HasSubstr;
using Ids = std::vector<int32_t>;
using Messages = std::vector<ChatMessage>;

constexpr int32_t kLength = 4096;

TextRecord Conversation(Messages messages) {
  return {.kind = TextRecord::Kind::kMessages, .messages = std::move(messages)};
}
TextRecord Pair(std::string prompt, std::string response) {
  return {.kind = TextRecord::Kind::kPromptResponse,
          .messages = {{"user", std::move(prompt)}, {"assistant", std::move(response)}}};
}
TextRecord Text(std::string text) { return {.kind = TextRecord::Kind::kText, .text = std::move(text)}; }

std::vector<Sample> Encoded(const TextRecord& record, const DatasetTexts& texts) {
  auto samples = EncodeRecord(record, texts, kLength);
  EXPECT_TRUE(samples.ok()) << samples.status();
  return samples.ok() ? *std::move(samples) : std::vector<Sample>();
}

// "kind: message" of the fault that `record` must be.
std::string Fault(const TextRecord& record, const DatasetTexts& texts, int32_t max_length = kLength) {
  const auto samples = EncodeRecord(record, texts, max_length);
  EXPECT_EQ(samples.status().code(), absl::StatusCode::kInvalidArgument);
  return BadSampleKind(samples.status()).value_or("none") + ": " + std::string(samples.status().message());
}

// GSM8K's calculator annotations, <<48/2=24>>, are no text.
std::string WithoutAnnotations(std::string text) {
  for (size_t begin; (begin = text.find("<<")) != std::string::npos;) {
    text.erase(begin, text.find(">>", begin) + 2 - begin);
  }
  return text;
}

TEST(RecordEncoderTest, Gsm8kWithTheDemoModel) {
  const TestModel demo(CLAMOR_DEMO_MODEL);
  std::ifstream file(CLAMOR_TESTDATA "/gsm8k/test-40.jsonl");
  std::string line;
  int lines = 0;
  while (std::getline(file, line)) {
    const auto row = nlohmann::json::parse(line);
    const std::string question = row["question"];
    const std::string answer = WithoutAnnotations(row["answer"]);
    const Ids prompt = demo.Parsed("<|im_start|>user\n" + question + "<|im_end|>\n<|im_start|>assistant\n");
    const Ids response = demo.Parsed(answer + "<|im_end|>");
    const auto size = static_cast<int32_t>(prompt.size() + response.size());
    const std::vector<Sample> expected = {
        {prompt + response, {{static_cast<int32_t>(prompt.size()), size}}, ""}};
    EXPECT_EQ(Encoded(Pair(question, answer), demo.texts), expected);
    EXPECT_EQ(Encoded(Conversation({{"user", question}, {"assistant", answer}}), demo.texts), expected);
    // The whole text, as one would prepare it for a base model, has the same ids.
    const auto whole =
        Encoded(Text(*demo.tokenizer->Decode(expected[0].ids, /*skip_specials=*/false)), demo.texts);
    ASSERT_EQ(whole.size(), 1u);
    EXPECT_EQ(whole[0].ids, expected[0].ids);
    EXPECT_EQ(whole[0].responses, (std::vector<Span>{{1, size}}));
    ++lines;
  }
  EXPECT_EQ(lines, 40);
}

// For every answer there is exactly one span; before it stand the ids of inference, and in it the answer.
TEST(RecordEncoderTest, EveryAnswerOnceBehindWhatInferenceSees) {
  const std::vector<Messages> conversations = {
      {{"user", "one and two"}, {"assistant", "three"}},
      {{"system", "be brief"}, {"user", "q"}, {"assistant", "a"}},
      {{"user", "q 1"}, {"assistant", "a 1"}, {"user", "q 2"}, {"assistant", "a 2"}, {"user", "unanswered"}},
      {{"user", "trim"}, {"assistant", "  room around \n"}, {"user", "q"}, {"assistant", "\n\nmore"}},
      {{"user", "q"}, {"assistant", "<think>hm</think>\n\nyes"}, {"user", "r"}, {"assistant", "no </think>"}},
      {{"user", "<|im_end|>\n<|im_start|>assistant\n</s>"},
       {"assistant", "<|im_end|></s> \u00e9\u4e2d"},
       {"user", "[INST] x [/INST]"},
       {"assistant", "clamor2406x17404"}},
  };
  for (const std::string& directory : ModelDirectories()) {
    SCOPED_TRACE(directory);
    const TestModel model(directory);
    const Ids eos = {model.texts.eos_ids.front()};  // all five templates close with it or with plain text
    for (const Messages& messages : conversations) {
      std::map<Ids, int> expected, found;
      Messages before;
      for (const ChatMessage& message : messages) {
        if (message.role == "assistant") {
          const auto prompt = model.chat_template->Encode(before);
          ASSERT_TRUE(prompt.ok()) << prompt.status();
          ++expected[*prompt + Ids{-1} + model.Plain(message.content) + eos];
        }
        before.push_back(message);
      }
      for (const Sample& sample : Encoded(Conversation(messages), model.texts)) {
        int32_t last = 0;
        for (const Span& span : sample.responses) {
          ASSERT_TRUE(last < span.begin && span.begin < span.end);
          last = span.end;
          const auto begin = sample.ids.begin();
          ++found[Ids(begin, begin + span.begin) + Ids{-1} + Ids(begin + span.begin, begin + span.end)];
        }
        EXPECT_EQ(last, static_cast<int32_t>(sample.ids.size())) << "nothing behind the last answer";
      }
      EXPECT_EQ(found, expected);
    }
  }
}

TEST(RecordEncoderTest, SeveralAnswersMakeOneSampleWhereTheTemplateRepeatsThem) {
  const Messages messages = {{"user", "q 1"}, {"assistant", "a 1"}, {"user", "q 2"}, {"assistant", "a 2"}};
  const TestModel demo(CLAMOR_DEMO_MODEL);
  const auto samples = Encoded(Conversation(messages), demo.texts);
  ASSERT_EQ(samples.size(), 1u);
  EXPECT_EQ(samples[0].ids,
            demo.Parsed("<|im_start|>user\nq 1<|im_end|>\n<|im_start|>assistant\na 1<|im_end|>\n"
                        "<|im_start|>user\nq 2<|im_end|>\n<|im_start|>assistant\na 2<|im_end|>"));
  ASSERT_EQ(samples[0].responses.size(), 2u);
  const Span first = samples[0].responses[0];
  EXPECT_EQ(Ids(samples[0].ids.begin() + first.begin, samples[0].ids.begin() + first.end),
            demo.Parsed("a 1<|im_end|>"));

  // A template that leaves earlier reasoning out: that answer needs a sample of its own.
  const std::string thinks =
      "{% for m in messages %}{% set last = loop.last %}<|im_start|>{{ m.role }}:"
      "{{ m.content if last else m.content.split('</think>')[-1] }}<|im_end|>{% endfor %}"
      "{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}";
  const TestModel qwen(CLAMOR_TESTDATA "/tiny-qwen2", thinks);
  EXPECT_EQ(Encoded(Conversation(messages), qwen.texts).size(), 1u);
  Messages reasoned = messages;
  reasoned[1].content = "hm</think>a 1";
  const auto split = Encoded(Conversation(reasoned), qwen.texts);
  ASSERT_EQ(split.size(), 2u);
  EXPECT_EQ(split[0].ids, qwen.Parsed("<|im_start|>user:q 1<|im_end|><|im_start|>assistant:") +
                              qwen.Plain("hm</think>a 1") + Ids{2});
  EXPECT_EQ(split[1].responses.size(), 1u);
}

TEST(RecordEncoderTest, EndOfAnswer) {
  const std::string loop = "{% for m in messages %}<|im_start|>{{ m.role }} ";
  const std::pair<std::string, Ids> templates[] = {
      {"{{ m.content }} done<|im_end|> x<|im_end|>{% endfor %}", {-1, 2}},  // -1: " done"
      {"{{ m.content | trim }}<|im_end|>{% endfor %}", {2}},
      {"<think></think>{{ m.content }}<|im_end|>{% endfor %}", {2}},
      {"{{ m.content }} done{% endfor %}", {2}},                            // no token that ends
      {"{{ m.content }}<|im_start|>\n{% endfor %}", {1, 2}},                // special, but inference goes on
      {"{{ m.content }}<|im_start|>\n<|im_end|>{% endfor %}", {1, -2, 2}},  // -2: "\n"
      {"{{ m.content }} = {{ m.content }}<|im_end|>{% endfor %}", {2}},     // written twice
      {"{% endfor %}", {2}},                                                // content is not written at all
  };
  for (const auto& [rest, end] : templates) {
    SCOPED_TRACE(rest);
    const TestModel model(CLAMOR_TESTDATA "/tiny-qwen2", loop + rest);
    Ids tail;
    for (const int32_t id : end) {
      tail = tail + (id == -1 ? model.Parsed(" done") : id == -2 ? model.Parsed("\n") : Ids{id});
    }
    const auto samples = Encoded(Pair("q", " a "), model.texts);
    ASSERT_EQ(samples.size(), 1u);
    const Ids& ids = samples[0].ids;
    EXPECT_EQ(Ids(ids.begin() + samples[0].responses[0].begin, ids.end()), model.Plain(" a ") + tail);
  }
}

TEST(RecordEncoderTest, WithoutTemplate) {
  for (const std::string& directory : ModelDirectories()) {
    SCOPED_TRACE(directory);
    const TestModel model(directory);
    DatasetTexts texts = model.WithoutTemplate();
    const Ids prompt = model.Raw("What is <|im_end|>?"), response = model.Plain("It is <|im_end|> </s>.");
    const Ids eos = {texts.eos_ids[0]};
    const auto begin = static_cast<int32_t>(prompt.size());
    auto samples = Encoded(Pair("What is <|im_end|>?", "It is <|im_end|> </s>."), texts);
    ASSERT_EQ(samples.size(), 1u);
    EXPECT_EQ(samples[0].ids, prompt + response + eos);
    EXPECT_EQ(samples[0].responses,
              (std::vector<Span>{{begin, static_cast<int32_t>(samples[0].ids.size())}}));

    samples = Encoded(Text("Any words at all"), texts);
    ASSERT_EQ(samples.size(), 1u);
    EXPECT_EQ(samples[0].ids, model.Raw("Any words at all") + eos);
    EXPECT_EQ(samples[0].responses, (std::vector<Span>{{1, static_cast<int32_t>(samples[0].ids.size())}}));

    texts.eos_ids.clear();
    EXPECT_EQ(Encoded(Text("Any words at all"), texts)[0].ids, model.Raw("Any words at all"));
    EXPECT_EQ(Encoded(Pair("q", "some words"), texts)[0].ids, model.Raw("q") + model.Plain("some words"));
  }
  const TestModel llama(CLAMOR_TESTDATA "/tiny-llama");
  EXPECT_EQ(Encoded(Text("word"), llama.texts)[0].ids.front(), 0) << "as the gateway does, with BOS";
}

TEST(RecordEncoderTest, FirstTokenIsNeverLearnt) {
  const TestModel demo(CLAMOR_DEMO_MODEL);
  const auto samples = Encoded(Pair("", "x"), demo.WithoutTemplate());  // no BOS: the response begins the row
  EXPECT_EQ(samples, (std::vector<Sample>{{demo.Plain("x") + Ids{2}, {{1, 2}}, ""}}));
}

TEST(RecordEncoderTest, FaultsAreNamed) {
  const TestModel demo(CLAMOR_DEMO_MODEL), mistral(CLAMOR_TESTDATA "/tiny-mistral");
  DatasetTexts bare = demo.WithoutTemplate();
  EXPECT_EQ(Fault(Conversation({{"user", "q"}, {"assistant", "a"}}), bare),
            "template: the model has no chat template, which 'messages' need");
  EXPECT_EQ(Fault(Conversation({{"user", "q"}, {"user", "r"}, {"assistant", "a"}}), mistral.texts),
            "template: roles must alternate user/assistant");
  EXPECT_EQ(
      Fault(Conversation({{"user", "q"}, {"assi\nstant", "a"}}), demo.texts),
      "role: messages[1]: role is \"assi\\nstant\", must be system, developer, user, assistant or tool");
  EXPECT_EQ(Fault(Conversation({{"user", "q"}}), demo.texts),
            "no response: no message has the role 'assistant'");
  EXPECT_EQ(Fault(Pair("q", ""), demo.texts), "no response: the response is empty");
  EXPECT_EQ(Fault(Pair("q", ""), bare), "no response: the response is empty");
  EXPECT_EQ(Fault(Text(""), bare), "too short: 1 tokens, a sample needs 2");
  bare.eos_ids.clear();
  EXPECT_EQ(Fault(Text(""), bare), "too short: 0 tokens, a sample needs 2");
  EXPECT_EQ(Fault(Pair("", "x"), bare), "too short: 1 tokens, a sample needs 2");
}

TEST(RecordEncoderTest, LengthLimit) {
  const TestModel demo(CLAMOR_DEMO_MODEL);
  for (const TextRecord& record :
       {Pair("question", "answer"), Text("any old words"),
        Conversation({{"user", "q"}, {"assistant", "a"}, {"user", "q"}, {"assistant", "b"}})}) {
    const auto size = static_cast<int32_t>(Encoded(record, demo.texts)[0].ids.size());
    EXPECT_TRUE(EncodeRecord(record, demo.texts, size).ok());
    EXPECT_EQ(Fault(record, demo.texts, size - 1),
              "too long: " + std::to_string(size) + " tokens, limit is " + std::to_string(size - 1));
  }
}

TEST(RecordEncoderTest, ConversationsAreBounded) {
  const TestModel model(CLAMOR_TESTDATA "/tiny-qwen2", "{{ messages[-1].content }}<|im_end|>");
  Messages messages(4095, {"user", "x"});
  messages.push_back({"assistant", "a"});
  EXPECT_TRUE(EncodeRecord(Conversation(messages), model.texts, kLength).ok());
  messages.push_back({"user", "x"});
  EXPECT_EQ(Fault(Conversation(messages), model.texts), "too long: 4097 messages, limit is 4096");
}

TEST(RecordEncoderTest, AnotherModelsTokenizerIsNoFaultOfTheData) {
  const TestModel demo(CLAMOR_DEMO_MODEL);
  DatasetTexts texts = demo.texts;
  const auto samples = Encoded(Text("any words"), texts);
  const int32_t largest = *std::max_element(samples[0].ids.begin(), samples[0].ids.end());
  texts.vocab_size = largest + 1;
  EXPECT_TRUE(EncodeRecord(Text("any words"), texts, kLength).ok());
  texts.vocab_size = largest;
  const absl::Status status = EncodeRecord(Text("any words"), texts, kLength).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(BadSampleKind(status).has_value());
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("token " + std::to_string(largest) + ", but the model has vocab_size " +
                        std::to_string(largest)));
}

}  // namespace
}  // namespace clamor
