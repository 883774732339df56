// The recorded answers of transformers for the four golden models.
#include "gmock/gmock.h"
#include "tests/model/tokenizer/testing.h"

namespace clamor {
namespace {

using ::clamor::testing::FilesOf;
using ::clamor::testing::Golden;
using ::clamor::testing::GoldenModels;
using ::clamor::testing::Ids;
using ::clamor::testing::LoadTokenizer;

class GoldenTest : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Models, GoldenTest, ::testing::ValuesIn(GoldenModels()),
                         [](const auto& info) { return info.param.substr(sizeof("tiny-") - 1); });

TEST_P(GoldenTest, EncodesAndDecodesLikeTransformers) {
  const auto tokenizer = LoadTokenizer(GetParam());
  const auto golden = Golden(GetParam());
  ASSERT_GT(golden["tokenizer"].size(), 20u);
  for (const auto& item : golden["tokenizer"]) {
    const std::string text = item["text"];
    const std::vector<int32_t> ids = Ids(item["ids"]);
    EXPECT_EQ(tokenizer->Encode(text, {}).value(), ids) << text;
    EXPECT_EQ(tokenizer->Encode(text, {.add_specials = false}).value(), Ids(item["ids_without_specials"]))
        << text;
    const std::vector<int32_t> without = Ids(item["ids_without_specials"]);
    EXPECT_EQ(tokenizer->Decode(without, /*skip_specials=*/true).value(), item["decoded"]) << text;
    EXPECT_EQ(tokenizer->Decode(without, /*skip_specials=*/false).value(), item["decoded_with_specials"])
        << text;
  }
}

// Renders every recorded conversation, errors included.
void ExpectGoldenChats(const ChatTemplate& chat_template, const nlohmann::ordered_json& golden) {
  ASSERT_GT(golden["chat"].size(), 5u);
  for (const auto& item : golden["chat"]) {
    const auto text = chat_template.Render(item["messages"], item["options"]);
    if (item.contains("error")) {
      EXPECT_EQ(text.status().message(), item["error"].get<std::string>());
    } else {
      ASSERT_TRUE(text.ok()) << text.status();
      EXPECT_EQ(*text, item["text"]);
    }
  }
}

TEST_P(GoldenTest, RendersLikeTransformers) {
  const TokenizerFiles files = FilesOf(GetParam());
  const auto tokenizer = LoadTokenizer(files);
  const auto chat_template = ChatTemplate::Load(files, tokenizer.get());
  ASSERT_TRUE(chat_template.ok()) << chat_template.status();
  ExpectGoldenChats(**chat_template, Golden(GetParam()));
}

TEST_P(GoldenTest, OlderDirectoriesKeepTheTemplateInTheirConfig) {
  TokenizerFiles files = FilesOf(GetParam());
  const std::string source = files.contents.at("chat_template.jinja");
  files.contents.erase("chat_template.jinja");
  const auto tokenizer = LoadTokenizer(files);
  EXPECT_EQ(ChatTemplate::Load(files, tokenizer.get()).status().code(), absl::StatusCode::kNotFound);

  auto config = nlohmann::json::parse(files.contents.at("tokenizer_config.json"));
  const nlohmann::json forms[] = {
      source,
      {{{"name", "tool_use"}, {"template", "wrong"}}, {{"name", "default"}, {"template", source}}},
  };
  for (const nlohmann::json& form : forms) {
    config["chat_template"] = form;
    files.contents["tokenizer_config.json"] = config.dump();
    const auto chat_template = ChatTemplate::Load(files, tokenizer.get());
    ASSERT_TRUE(chat_template.ok()) << chat_template.status();
    ExpectGoldenChats(**chat_template, Golden(GetParam()));
  }
}

TEST_P(GoldenTest, EncodesChatsAsTheirRenderedText) {
  const TokenizerFiles files = FilesOf(GetParam());
  const auto tokenizer = LoadTokenizer(files);
  const auto chat_template = ChatTemplate::Load(files, tokenizer.get()).value();
  int compared = 0;
  const auto golden = Golden(GetParam());
  for (const auto& item : golden["chat"]) {
    if (item["options"].dump() != R"({"add_generation_prompt":true})" || item.contains("error")) continue;
    std::vector<ChatMessage> messages;
    bool spells_special = false;
    for (const auto& message : item["messages"]) {
      messages.push_back({message["role"], message["content"]});
      spells_special |= messages.back().content.find("<|im_end|>") != std::string::npos;
    }
    const auto ids = chat_template->Encode(messages).value();
    // A model that puts a space in front of every text does so after every special token.
    if (GetParam() != "tiny-mistral") {
      EXPECT_EQ(tokenizer->Decode(ids, /*skip_specials=*/false).value(), item["text"]);
    }
    const auto parsed = tokenizer->Encode(item["text"].get<std::string>(), {.add_specials = false}).value();
    if (spells_special && tokenizer->IsSpecial(tokenizer->TokenToId("<|im_end|>").value())) {
      EXPECT_NE(ids, parsed);
    } else {
      EXPECT_EQ(ids, parsed);
    }
    ++compared;
  }
  EXPECT_GE(compared, 4);
}

}  // namespace
}  // namespace clamor
