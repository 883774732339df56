// Suites as files say them, and modes as flags do: what is read, and how a fault is named.
#include "services/cli/eval_suite.h"

#include <filesystem>
#include <fstream>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/cli/command.h"
#include "services/cli/eval_mode.h"

namespace clamor::cli {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

class SuiteTest : public testing::Test {
 protected:
  absl::StatusOr<std::vector<SuitePrompt>> Read(Suite suite, const std::string& content,
                                                const std::string& name = "data.jsonl") {
    const std::string path = Path(name);
    std::ofstream(path, std::ios::binary) << content;
    return ReadSuite(suite, path);
  }
  std::string Path(const std::string& name) const { return testing::TempDir() + name; }

  // `line` stands second, after a good one, and is refused with its number and `message`.
  void Refused(Suite suite, const std::string& good, const std::string& line, const std::string& message) {
    const auto prompts = Read(suite, absl::StrCat(good, "\n", line, "\n"));
    ASSERT_FALSE(prompts.ok()) << line;
    EXPECT_EQ(prompts.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(prompts.status().message(), AllOf(HasSubstr("data.jsonl:2: "), HasSubstr(message))) << line;
  }
};

std::string TextOf(const SuitePrompt& prompt) { return std::get<std::string>(prompt.prompt); }

constexpr char kSpecBench[] = R"({"question_id": 81, "category": "writing", "turns": ["Write.", "Again."]})";

TEST_F(SuiteTest, SpecBenchHasSixFamilies) {
  std::string file;
  const std::vector<std::string> raw = {
      "writing",    "roleplay",    "reasoning",     "math", "coding", "stem",          "humanities",
      "extraction", "translation", "summarization", "qa",   "rag",    "math_reasoning"};
  for (size_t i = 0; i < raw.size(); ++i) {
    absl::StrAppend(&file, R"({"question_id":)", i, R"(,"category":")", raw[i], R"(","turns":["first )", i,
                    R"(","second"]})", "\n");
  }
  const auto prompts = Read(Suite::kSpecBench, file);
  ASSERT_TRUE(prompts.ok()) << prompts.status();
  ASSERT_THAT(*prompts, SizeIs(raw.size()));
  for (size_t i = 0; i < raw.size(); ++i) {
    const SuitePrompt& prompt = (*prompts)[i];
    EXPECT_EQ(prompt.category, i < 8 ? "mt_bench" : raw[i]);
    EXPECT_EQ(TextOf(prompt), absl::StrCat("first ", i));
    EXPECT_EQ(prompt.id, absl::StrCat(i));
    EXPECT_EQ(prompt.line, static_cast<int64_t>(i + 1));
  }
}

TEST_F(SuiteTest, PublishedFilesNameTheirFields) {
  auto prompts =
      Read(Suite::kHumanEval, R"({"task_id": "HumanEval/0", "prompt": "def f():\n", "test": "x"})");
  ASSERT_TRUE(prompts.ok()) << prompts.status();
  EXPECT_EQ(TextOf(prompts->front()), "def f():\n");
  EXPECT_EQ(prompts->front().id, "HumanEval/0");
  EXPECT_EQ(prompts->front().category, "humaneval");

  prompts = ReadSuite(Suite::kGsm8k, absl::StrCat(CLAMOR_TESTDATA, "/gsm8k/test-40.jsonl"));
  ASSERT_TRUE(prompts.ok()) << prompts.status();
  ASSERT_THAT(*prompts, SizeIs(40));
  EXPECT_THAT(TextOf(prompts->front()), HasSubstr("16 eggs per day"));
  EXPECT_EQ(prompts->back().id, "40") << "no id: the line";
  EXPECT_EQ(prompts->back().category, "gsm8k");
}

TEST_F(SuiteTest, OwnPromptsComeInThreeForms) {
  auto prompts =
      Read(Suite::kPrompts,
           "{\"prompt\": \"a\"}\r\n\n"
           "{\"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", \"content\": "
           "\"u\"}], \"category\": \"chat\", \"id\": \"x\\ny\"}\n");
  ASSERT_TRUE(prompts.ok()) << prompts.status();
  ASSERT_THAT(*prompts, SizeIs(2));
  EXPECT_EQ(TextOf((*prompts)[0]), "a");
  EXPECT_EQ((*prompts)[0].category, "prompts");
  const auto& messages = std::get<std::vector<ChatMessage>>((*prompts)[1].prompt);
  ASSERT_THAT(messages, SizeIs(2));
  EXPECT_EQ(messages[1].content, "u");
  EXPECT_EQ((*prompts)[1].category, "chat");
  EXPECT_EQ((*prompts)[1].line, 3);
  EXPECT_EQ((*prompts)[1].id, "3") << "an id that no terminal should see";

  prompts = Read(Suite::kPrompts, "one\n\n  {\"prompt\": 1}\n", "data.txt");
  ASSERT_TRUE(prompts.ok()) << prompts.status();
  ASSERT_THAT(*prompts, SizeIs(2));
  EXPECT_EQ(TextOf((*prompts)[1]), "  {\"prompt\": 1}");
}

TEST_F(SuiteTest, BadLinesAreNamed) {
  Refused(Suite::kSpecBench, kSpecBench, "{", "not a JSON object");
  Refused(Suite::kSpecBench, kSpecBench, "[1]", "not a JSON object but array");
  Refused(Suite::kSpecBench, kSpecBench, R"({"turns": ["x"]})", "field 'category' is missing");
  Refused(Suite::kSpecBench, kSpecBench, R"({"category": "cooking", "turns": ["x"]})", "\"cooking\"");
  Refused(Suite::kSpecBench, kSpecBench, R"({"category": "qa"})", "field 'turns' is missing");
  Refused(Suite::kSpecBench, kSpecBench, R"({"category": "qa", "turns": []})", "field 'turns' is []");
  Refused(Suite::kSpecBench, kSpecBench, R"({"category": "qa", "turns": [7]})", "field 'turns[0]' is 7");
  Refused(Suite::kHumanEval, R"({"prompt": "x"})", R"({"prompt": ""})", "field 'prompt' is \"\"");
  Refused(Suite::kGsm8k, R"({"question": "x"})", R"({"prompt": "x"})", "field 'question' is missing");
  const std::string good = R"({"prompt": "x"})";
  Refused(Suite::kPrompts, good, R"({"text": "x"})", "neither the field 'prompt' nor 'messages'");
  Refused(Suite::kPrompts, good, R"({"messages": []})", "field 'messages'");
  Refused(Suite::kPrompts, good, R"({"prompt": "x", "category": 3})", "field 'category' is 3");
  Refused(Suite::kPrompts, good, R"({"prompt": "x", "category": "\u001b[2J"})", "no control characters");
  Refused(Suite::kPrompts, good,
          absl::StrCat(R"({"prompt": "x", "category": ")", std::string(65, 'c'), "\"}"), "at most 64 bytes");
}

TEST_F(SuiteTest, FilesThatHoldNothingAreRefused) {
  EXPECT_EQ(ReadSuite(Suite::kGsm8k, Path("nowhere.jsonl")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReadSuite(Suite::kGsm8k, testing::TempDir()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Read(Suite::kGsm8k, "\n \n").status().message(), HasSubstr("data.jsonl: holds no prompt"));
  std::string many;
  for (size_t i = 0; i <= kMaxCategories; ++i) {
    absl::StrAppend(&many, R"({"prompt": "x", "category": "c)", i, "\"}\n");
  }
  EXPECT_THAT(Read(Suite::kPrompts, many).status().message(), HasSubstr(":65: field 'category'"));
}

std::vector<std::string> NamesOf(const std::vector<EvalMode>& modes) {
  std::vector<std::string> names;
  for (const EvalMode& mode : modes) names.push_back(mode.name);
  return names;
}

TEST(EvalMode, AreWhatTheFlagsSay) {
  const auto modes = ParseModes({"merged:4", "plain", "published", "merged"}, {"auto", "16"});
  ASSERT_TRUE(modes.ok()) << modes.status();
  EXPECT_THAT(NamesOf(*modes), ElementsAre("merged:4", "plain", "published", "merged:auto", "merged:16"));
  EXPECT_EQ(PlainMode(*modes), 1u);
  EXPECT_EQ((*modes)[0].speculation.nodes, 4);
  EXPECT_EQ((*modes)[1].speculation.nodes, 0);
  EXPECT_EQ((*modes)[2].speculation.shape, TreeShape::kPublished);
  EXPECT_NE((*modes)[2].speculation.nodes, 0);
  EXPECT_EQ((*modes)[3].speculation.nodes, SpeculationOptions::kAuto);
  EXPECT_EQ((*modes)[4].speculation.nodes, 16);
  EXPECT_EQ((*modes)[4].speculation.shape, TreeShape::kMerged);
  EXPECT_EQ(PlainMode({(*modes)[0]}), std::nullopt);
}

TEST(EvalMode, AreRefusedByTheNameOfTheFlag) {
  const auto refused = [](const std::vector<std::string>& modes, const std::vector<std::string>& nodes,
                          const std::string& message) {
    const absl::Status status = ParseModes(modes, nodes).status();
    EXPECT_EQ(ExitCode(status), 2) << status;
    EXPECT_THAT(status.message(), HasSubstr(message));
  };
  refused({"oak"}, {"auto"}, "--modes: 'oak' must be plain");
  refused({"merged:"}, {"auto"}, "--modes: '' must be auto or 1 to 128");
  refused({"merged:129"}, {"auto"}, "--modes: '129'");
  refused({"merged"}, {"0"}, "--nodes: '0'");
  refused({"merged"}, {"auto", "x"}, "--nodes: 'x'");
  refused({"plain", "plain"}, {"auto"}, "--modes: plain is given twice");
  refused({"merged:8", "merged"}, {"8"}, "--modes: merged:8 is given twice");
  refused({}, {"auto"}, "--modes: makes 0 modes");
  std::vector<std::string> many;
  for (size_t i = 1; i <= kMaxModes + 1; ++i) many.push_back(absl::StrCat("merged:", i));
  refused(many, {"auto"}, "--modes: makes 17 modes");
}

}  // namespace
}  // namespace clamor::cli
