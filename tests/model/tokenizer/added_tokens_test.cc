// How the flags act on ids is in tokenizer_variants_test.cc; here is what only the class can show.
#include "model/tokenizer/added_tokens.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace clamor {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class AddedTokensTest : public ::testing::Test {
 protected:
  absl::StatusOr<AddedTokens> Make(const nlohmann::json& tokens) {
    return AddedTokens::FromJson(tokens, "tokenizer.json: added_tokens", bpe_, normalizer_);
  }

  // The segments of `text` as words; tokens in brackets.
  static std::vector<std::string> Cut(const AddedTokens& added, const MarkedText& text,
                                      bool parse_specials = true) {
    std::vector<std::string> words;
    for (const auto& segment : added.Find(text, AddedTokens::Stage::kRaw, parse_specials)) {
      const std::string word = text.text().substr(segment.begin, segment.end - segment.begin);
      words.push_back(segment.token != nullptr ? "[" + word + "]" : word);
    }
    return words;
  }

  Bpe bpe_ =
      Bpe::FromJson({{"vocab", {{"a", 0}, {"b", 1}}}, {"merges", nlohmann::json::array()}}, "model").value();
  Normalizer normalizer_;
};

nlohmann::json Special(int id, const std::string& content) {
  return {{"id", id}, {"content", content}, {"special", true}};
}

// Braces around one element would be that element.
nlohmann::json List(nlohmann::json::initializer_list_t items) { return nlohmann::json::array(items); }

TEST_F(AddedTokensTest, TheLongestTokenWins) {
  const auto added = Make({Special(2, "<a>"), Special(3, "<a><b>"), Special(4, "<a><")}).value();
  EXPECT_THAT(Cut(added, MarkedText("x<a><b><a><a>")), ElementsAre("x", "[<a><b>]", "[<a><]", "a>"));
}

TEST_F(AddedTokensTest, MarkedSpecialsStayText) {
  auto tokens =
      nlohmann::json::array({Special(2, "<s>"), {{"id", 3}, {"content", "<t>"}, {"normalized", false}}});
  const auto added = Make(tokens).value();
  MarkedText text("<s>");
  text.Append("<s><t>", /*marked=*/true);
  text.Append("<s");
  text.Append(">", /*marked=*/true);
  text.Append("<s>");
  EXPECT_THAT(Cut(added, text), ElementsAre("[<s>]", "<s>", "[<t>]", "<s>", "[<s>]"));
  EXPECT_THAT(Cut(added, text, /*parse_specials=*/false), ElementsAre("<s><s>", "[<t>]", "<s><s>"));
}

TEST_F(AddedTokensTest, SegmentsCoverTheText) {
  const auto added = Make(List({Special(2, "<a>")})).value();
  EXPECT_THAT(Cut(added, MarkedText("")), ElementsAre());
  EXPECT_THAT(Cut(added, MarkedText("<a>")), ElementsAre("[<a>]"));
  EXPECT_THAT(Cut(added, MarkedText("é<a")), ElementsAre("é<a"));
}

TEST_F(AddedTokensTest, IdsMayNotContradictTheVocabulary) {
  const auto message = [this](const nlohmann::json& tokens) {
    return std::string(Make(tokens).status().message());
  };
  EXPECT_EQ(message(List({Special(1, "a")})),
            "tokenizer.json: added_tokens[0].id: 1; expected 0 as in model.vocab");
  EXPECT_EQ(message(List({Special(1, "x")})),
            "tokenizer.json: added_tokens[0].id: 1; expected an id that is not that of \"b\"");
  EXPECT_THAT(message(List({Special(-1, "x")})),
              HasSubstr("added_tokens[0].id: -1; expected an integer in [0, 4194303]"));
  EXPECT_THAT(message({Special(9, "x"), Special(9, "y")}), HasSubstr("added_tokens[1]"));
  EXPECT_THAT(message({Special(8, "x"), Special(9, "x")}), HasSubstr("added_tokens[1]"));
  EXPECT_THAT(message(List({Special(8, "")})),
              HasSubstr("added_tokens[0].content: \"\"; expected 1 to 1024 bytes"));
  EXPECT_THAT(message(List({5})), HasSubstr("added_tokens[0]"));
  EXPECT_THAT(message("x"), HasSubstr("added_tokens: \"x\"; expected an array"));
  EXPECT_TRUE(Make({Special(0, "a"), Special(1, "b"), Special(9, "c")}).ok());
}

}  // namespace
}  // namespace clamor
