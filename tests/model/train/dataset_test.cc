#include "model/train/dataset.h"

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/model/train/testing.h"

namespace clamor {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

constexpr char kGood[] = R"({"prompt": "one", "response": "two and three and four"})";

class DatasetTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = ::testing::TempDir() + "/dataset_test." +
              ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& text) const {
    const std::string path = folder_ + "/" + name;
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }

  absl::StatusOr<Dataset> Load(const std::vector<std::string>& files, DatasetOptions options = {}) const {
    return LoadDataset(files, Demo().texts, options, [](uint64_t, uint64_t) {});
  }

  static const TestModel& Demo() {
    static const TestModel& demo = *new TestModel(CLAMOR_DEMO_MODEL);
    return demo;
  }

  // `line`, second of three lines, is a fault of `kind` with a message that holds `what`: refused by name, or
  // counted and left out.
  void ExpectFault(const std::string& line, const std::string& kind, const std::string& what,
                   DatasetOptions options = {}) const {
    SCOPED_TRACE(line.substr(0, 100));
    const std::string path = Write("data.jsonl", std::string(kGood) + "\n" + line + "\n" + kGood + "\n");
    const auto refused = Load({path}, options);
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr(path + ":2: " + what));
    options.on_bad_sample = OnBadSample::kSkip;
    const auto skipped = Load({path}, options);
    ASSERT_TRUE(skipped.ok()) << skipped.status();
    EXPECT_THAT(skipped->bad, ElementsAre(Pair(kind, 1)));
    EXPECT_EQ(skipped->bad_lines(), 1);
    EXPECT_THAT(skipped->messages, ElementsAre(HasSubstr(path + ":2: " + what)));
    ASSERT_EQ(skipped->samples.size(), 2u);
    EXPECT_EQ(skipped->samples[1].source, path + ":3");
  }

  std::string folder_;
};

TEST_F(DatasetTest, FilesAndLinesInOrder) {
  const std::string a =
      Write("a.jsonl", std::string("\n \r\n") + kGood + "\r\n\n" + R"({"text": "some words"})");
  const std::string b = Write("b.jsonl", R"({"messages": [{"role": "user", "content": "q"},)"
                                         R"( {"role": "assistant", "content": "a"}]})"
                                         "\n");
  std::vector<std::pair<uint64_t, uint64_t>> progress;
  const auto dataset = LoadDataset(
      {a, b}, Demo().texts, {}, [&](uint64_t done, uint64_t total) { progress.emplace_back(done, total); });
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  ASSERT_EQ(dataset->samples.size(), 3u);
  EXPECT_EQ(dataset->samples[0].source, a + ":3");
  EXPECT_EQ(dataset->samples[1].source, a + ":5");
  EXPECT_EQ(dataset->samples[2].source, b + ":1");
  int64_t tokens = 0, response_tokens = 0;
  for (const Sample& sample : dataset->samples) {
    tokens += sample.ids.size();
    for (const Span& span : sample.responses) response_tokens += span.size();
  }
  EXPECT_EQ(dataset->tokens, tokens);
  EXPECT_EQ(dataset->response_tokens, response_tokens);
  EXPECT_EQ(dataset->samples[0].ids,
            Demo().Parsed(
                "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\ntwo and three and four<|im_end|>"));
  EXPECT_EQ(dataset->bad_lines(), 0);
  EXPECT_TRUE(dataset->messages.empty());
  const uint64_t bytes = std::filesystem::file_size(a) + std::filesystem::file_size(b);
  ASSERT_EQ(progress.size(), 6u);
  EXPECT_EQ(progress.back(), std::make_pair(bytes, bytes));
}

TEST_F(DatasetTest, FaultsAreRefusedOrSkipped) {
  ExpectFault("{\"text\": \"x\"", "invalid JSON", "not a JSON object: offset 13: not valid JSON");
  ExpectFault("[1]", "invalid JSON", "not a JSON object but array");
  ExpectFault(std::string(70, '['), "invalid JSON",
              "not a JSON object: offset 64: JSON nested deeper than 64");
  ExpectFault("{\"text\": \"\xff\"}", "invalid UTF-8", "not valid UTF-8 at byte 10");
  ExpectFault("{}", "field", "has none of the fields");
  ExpectFault(R"({"prompt": "q"})", "field", "field 'response' is missing");
  ExpectFault(R"({"prompt": "q", "response": 7})", "field", "field 'response' must be a string, is number");
  ExpectFault(R"({"messages": [{"role": "bot", "content": "x"}]})", "role", "messages[0]: role is \"bot\"");
  ExpectFault(R"({"messages": [{"role": "user", "content": "x"}]})", "no response",
              "no message has the role");
  ExpectFault(R"({"prompt": "q", "response": ""})", "no response", "the response is empty");
  ExpectFault(R"({"text": ""})", "too short", "1 tokens, a sample needs 2");
  const std::string words = "{\"text\": \"" + std::string(200, '7') + "\"}";
  ExpectFault(words, "too long", "201 tokens, limit is 200", {.max_length = 200});
}

TEST_F(DatasetTest, TemplateErrors) {
  const TestModel strict(
      CLAMOR_DEMO_MODEL,
      "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system turns') }}"
      "{% endif %}{{ m.content }}<|im_end|>{% endfor %}");
  const std::string path =
      Write("data.jsonl",
            std::string(kGood) + "\n" +
                R"({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"},)"
                R"( {"role": "assistant", "content": "a"}]})");
  const auto none = [](uint64_t, uint64_t) {};
  EXPECT_EQ(LoadDataset({path}, strict.texts, {}, none).status().message(), path + ":2: no system turns");
  const auto skipped = LoadDataset({path}, strict.texts, {.on_bad_sample = OnBadSample::kSkip}, none);
  ASSERT_TRUE(skipped.ok());
  EXPECT_THAT(skipped->bad, ElementsAre(Pair("template", 1)));
}

TEST_F(DatasetTest, LinesOverTheLimitAreNotHeld) {
  const size_t limit = 16 << 20;
  ExpectFault("{\"text\": \"" + std::string(limit, 'x') + "\"}", "long line",
              "16777228 bytes, limit is 16777216");
  std::string line = kGood;
  line.resize(limit, ' ');
  EXPECT_TRUE(Load({Write("data.jsonl", line + "\n" + kGood)}).ok()) << "a line of exactly the limit";
}

TEST_F(DatasetTest, EmptyFiles) {
  const std::string good = Write("good.jsonl", kGood), empty = Write("empty.jsonl", ""),
                    blank = Write("blank.jsonl", "\n \n");
  EXPECT_EQ(Load({good, empty}).status().message(), empty + ":1: the file is empty");
  EXPECT_EQ(Load({good, blank}).status().message(), blank + ":1: the file is empty");
  const auto skipped = Load({empty, good, blank}, {.on_bad_sample = OnBadSample::kSkip});
  ASSERT_TRUE(skipped.ok());
  EXPECT_EQ(skipped->samples.size(), 1u);
  EXPECT_THAT(skipped->bad, ElementsAre(Pair("empty file", 2)));
}

TEST_F(DatasetTest, NoSamplesAtAll) {
  const std::string path = Write("data.jsonl", "{}\n[]\n{}\n");
  const absl::Status status = Load({path}, {.on_bad_sample = OnBadSample::kSkip}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("no samples in " + path + ": 3 bad lines; " + path + ":1: "));
  EXPECT_EQ(Load({}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(DatasetTest, FilesThatCannotBeRead) {
  for (const OnBadSample option : {OnBadSample::kRefuse, OnBadSample::kSkip}) {
    const std::string missing = folder_ + "/missing.jsonl";
    EXPECT_EQ(Load({missing}, {.on_bad_sample = option}).status(),
              absl::NotFoundError(missing + ": cannot open"));
    EXPECT_EQ(Load({folder_}, {.on_bad_sample = option}).status(),
              absl::DataLossError(folder_ + ":1: cannot read"));
  }
}

TEST_F(DatasetTest, ResponsesTooShortForNoise) {
  const int32_t needed = static_cast<int32_t>(Demo().Parsed("two and three and four<|im_end|>").size());
  const std::string path =
      Write("data.jsonl", std::string(kGood) + "\n" + R"({"prompt": "q", "response": "two"})");
  DatasetOptions options{.response_tokens_for_noise = needed};
  const auto size = static_cast<int32_t>(Demo().Parsed("two<|im_end|>").size());
  const std::string what = path + ":2: the longest response has " + std::to_string(size) +
                           " tokens, noise needs " + std::to_string(needed);
  EXPECT_EQ(Load({path}, options).status(), BadSampleError("noise", what));
  options.on_bad_sample = OnBadSample::kSkip;
  const auto kept = Load({path}, options);
  ASSERT_TRUE(kept.ok()) << kept.status();
  EXPECT_EQ(kept->samples.size(), 2u);
  EXPECT_EQ(kept->without_noise, 1);
  EXPECT_EQ(kept->bad_lines(), 0);
  EXPECT_THAT(kept->messages, ElementsAre(what + "; trained without"));
}

TEST_F(DatasetTest, KeepsTheFirstMessages) {
  std::string text = kGood;
  for (int i = 0; i < 30; ++i) text += i % 2 == 0 ? "\n{}" : "\n[]";
  const std::string path = Write("data.jsonl", text);
  const auto skipped = Load({path}, {.on_bad_sample = OnBadSample::kSkip});
  ASSERT_TRUE(skipped.ok());
  EXPECT_THAT(skipped->bad, ElementsAre(Pair("field", 15), Pair("invalid JSON", 15)));
  ASSERT_EQ(skipped->messages.size(), 10u);
  EXPECT_THAT(skipped->messages[9], HasSubstr(path + ":11: "));
}

TEST_F(DatasetTest, AnotherModelsTokenizerEndsTheLoad) {
  DatasetTexts texts = Demo().texts;
  texts.vocab_size = 100;
  const std::string path = Write("data.jsonl", kGood);
  const absl::Status status =
      LoadDataset({path}, texts, {.on_bad_sample = OnBadSample::kSkip}, [](uint64_t, uint64_t) {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr(path + ":1: token "));
}

}  // namespace
}  // namespace clamor
