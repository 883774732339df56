#include "model/spec/answer_grammar.h"

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/grammar/json_schema.h"

namespace clamor {
namespace {

using ::testing::ElementsAre;

constexpr float kNever = -std::numeric_limits<float>::infinity();

// Ids: 0 "1", 1 "2", 2 "[", 3 "]", 4 ",", 5 the end, 6 "[1"; 7 and 8 are no tokens, though the model has
// rows.
AnswerGrammar Lists(
    const char* schema = R"({"type": "array", "items": {"type": "integer"}, "maxItems": 2})") {
  return AnswerGrammar(
      std::make_shared<const Grammar>(CompileJsonSchema(schema).value()),
      std::make_shared<const TokenTrie>(std::vector<std::string>{"1", "2", "[", "]", ",", "", "[1", ""}),
      {5});
}

std::vector<int> Left(AnswerGrammar& grammar, const std::vector<int32_t>& path,
                      std::vector<float> edited = {}) {
  const std::vector<float> logits =
      edited.empty() || !std::isnan(edited[0]) ? std::vector<float>(9, 3) : edited;
  if (edited.empty()) edited = logits;
  grammar.Apply(path, logits, edited);
  std::vector<int> left;
  for (int id = 0; id < 9; ++id) {
    if (edited[id] != kNever) left.push_back(id);
  }
  return left;
}

TEST(AnswerGrammarTest, LeavesWhatMayFollowTextAndPath) {
  AnswerGrammar grammar = Lists();
  EXPECT_THAT(Left(grammar, {}), ElementsAre(2, 6));
  EXPECT_THAT(Left(grammar, {2}), ElementsAre(0, 1, 3));
  EXPECT_THAT(Left(grammar, {6}), ElementsAre(0, 1, 3, 4));
  EXPECT_THAT(Left(grammar, {6, 4, 0, 3}), ElementsAre(5));
  EXPECT_THAT(Left(grammar, {}), ElementsAre(2, 6)) << "a path is forgotten";
  grammar.Add(6);
  grammar.Add(4);
  EXPECT_THAT(Left(grammar, {}), ElementsAre(0, 1));
  EXPECT_THAT(Left(grammar, {1}), ElementsAre(0, 1, 3)) << "no third item";
  GrammarState state = grammar.state();
  EXPECT_FALSE(grammar.Advance(&state, 4));
  EXPECT_TRUE(grammar.Advance(&state, 1));
  EXPECT_TRUE(grammar.Advance(&state, 3));
  EXPECT_TRUE(grammar.Advance(&state, 5));
}

TEST(AnswerGrammarTest, OtherEditsGiveWayOnlyWhereTheyLeaveNothing) {
  AnswerGrammar grammar = Lists();
  EXPECT_THAT(Left(grammar, {}, {3, 3, kNever, 3, 3, 3, 3, 3, 3}), ElementsAre(6));
  EXPECT_THAT(Left(grammar, {}, {3, 3, kNever, 3, 3, 3, kNever, 3, 3}), ElementsAre(2, 6));
  std::vector<float> logits = {0, 0, 1.5f, 0, 0, 0, -2, 0, 0}, edited(9, kNever);
  grammar.Apply({}, logits, edited);
  EXPECT_EQ(edited[2], 1.5f);
  EXPECT_EQ(edited[6], -2);
}

TEST(AnswerGrammarTest, ARowOfNonsenseStillHasAToken) {
  AnswerGrammar grammar = Lists();
  for (const float nonsense : {std::nanf(""), kNever}) {
    const std::vector<float> logits(9, nonsense);
    EXPECT_THAT(Left(grammar, {}, logits), ElementsAre(2, 6));
    std::vector<float> edited = logits;
    grammar.Apply({}, logits, edited);
    EXPECT_EQ(edited[2], std::numeric_limits<float>::lowest());
  }
}

TEST(AnswerGrammarTest, KnowsItsEnd) {
  AnswerGrammar grammar = Lists();
  for (const int32_t token : {2, 0, 3}) EXPECT_FALSE(grammar.Add(token));
  EXPECT_TRUE(grammar.Add(5));
}

TEST(AnswerGrammarTest, NoneIsEmpty) {
  EXPECT_TRUE(AnswerGrammar().empty());
  EXPECT_FALSE(Lists().empty());
}

}  // namespace
}  // namespace clamor
