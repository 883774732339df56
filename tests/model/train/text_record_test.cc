#include "model/text_record.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace clamor {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<TextRecord> Read(std::string_view line) {
  auto object = ParseRecord(line);
  if (!object.ok()) return object.status();
  return ReadRecord(*object);
}

TEST(TextRecordTest, EveryForm) {
  auto record = Read(R"({"text": "a \u00e9", "other": [1]})");
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->kind, TextRecord::Kind::kText);
  EXPECT_EQ(record->text, "a \u00e9");

  record = Read("{\"prompt\": \"p\", \"response\": \"\", \"text\": 5}\r");
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->kind, TextRecord::Kind::kPromptResponse);
  ASSERT_EQ(record->messages.size(), 2u);
  EXPECT_EQ(record->messages[0].role + ":" + record->messages[0].content, "user:p");
  EXPECT_EQ(record->messages[1].role + ":" + record->messages[1].content, "assistant:");

  record = Read(
      R"({"prompt": 1, "messages": [{"role": "x", "content": "1", "name": 3}, {"role": "", "content": ""}]})");
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->kind, TextRecord::Kind::kMessages);
  ASSERT_EQ(record->messages.size(), 2u);
  EXPECT_EQ(record->messages[0].role + record->messages[0].content, "x1");
}

TEST(TextRecordTest, FaultsAreNamed) {
  const std::pair<std::string, std::string> faults[] = {
      {"{", "not a JSON object: offset 2: not valid JSON"},
      {"{\"text\": \"\\ud800\"}", "not a JSON object: offset"},
      {"[]", "not a JSON object but array"},
      {"7", "not a JSON object but number"},
      {std::string(100, '['), "nested deeper than 64"},
      {"{}", "has none of the fields 'text', 'prompt' and 'response', 'messages'"},
      {R"({"text": 5})", "field 'text' must be a string, is number"},
      {R"({"prompt": "x"})", "field 'response' is missing"},
      {R"({"response": "x"})", "field 'prompt' is missing"},
      {R"({"prompt": "x", "response": null})", "field 'response' must be a string, is null"},
      {R"({"messages": {}})", "field 'messages' must be an array that is not empty"},
      {R"({"messages": []})", "field 'messages' must be an array that is not empty"},
      {R"({"messages": [3]})", "messages[0]: must be an object, is number"},
      {R"({"messages": [{"role": "user", "content": "x"}, {"role": "user"}]})",
       "messages[1]: field 'content' is missing"},
      {R"({"messages": [{"role": 1, "content": "x"}]})",
       "messages[0]: field 'role' must be a string, is number"},
  };
  for (const auto& [line, message] : faults) {
    const auto record = Read(line);
    EXPECT_EQ(record.status().code(), absl::StatusCode::kInvalidArgument) << line;
    EXPECT_THAT(std::string(record.status().message()), HasSubstr(message));
  }
}

TEST(TextRecordTest, Limits) {
  const std::string line = "{\"text\": \"" + std::string(kMaxRecordBytes - 12, 'x') + "\"}";
  EXPECT_TRUE(Read(line).ok());
  EXPECT_EQ(Read(line + " ").status().message(), "the line has 16777217 bytes, limit is 16777216");
}

}  // namespace
}  // namespace clamor
