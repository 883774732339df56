#include "model/tokenizer/pattern.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace clamor {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> Matches(const std::string& regex, const std::string& text) {
  const auto pattern = Pattern::FromRegex(regex);
  EXPECT_TRUE(pattern.ok()) << pattern.status();
  std::vector<Pattern::Match> found;
  EXPECT_TRUE(pattern->FindAll(text, &found).ok());
  std::vector<std::string> matches;
  for (const auto& match : found) matches.push_back(text.substr(match.begin, match.end - match.begin));
  return matches;
}

TEST(PatternTest, MatchesInOrder) {
  EXPECT_THAT(Matches("a+|b", "aabxab"), ElementsAre("aa", "b", "a", "b"));
  EXPECT_THAT(Matches(R"(\s+(?!\S)|\s+)", "a  b \n"), ElementsAre(" ", " ", " \n"));
}

TEST(PatternTest, EmptyMatchesStandBetweenCharacters) {
  EXPECT_THAT(Matches("x*", "axxé"), ElementsAre("", "xx", ""));
}

TEST(PatternTest, ClassesAreThoseOfOniguruma) {
  EXPECT_THAT(Matches(R"(\s)", "\u00a0\u0085\u2028\u180e\u200b"), ElementsAre("\u00a0", "\u0085", "\u2028"));
  EXPECT_THAT(Matches(R"([^\S\n])", " \n\u180e\u3000"), ElementsAre(" ", "\u3000"));
  EXPECT_THAT(Matches(R"(\w+)", "e\u0301a_1 \u203f"), ElementsAre("e\u0301a_1", "\u203f"));
  EXPECT_THAT(Matches(R"(\bx)", "x e\u0301x-x"), ElementsAre("x", "x"));
  EXPECT_THAT(Matches("^a$", "a\nb\na"), ElementsAre("a", "a"));
  EXPECT_THAT(Matches("(?i:'S|k)", "'s'\u017fK\u212a"), ElementsAre("'s", "'\u017f", "K", "\u212a"));
  EXPECT_THAT(Matches("[^a[b[c]]d]x|y", "axbxcxdxexy"), ElementsAre("ex", "y"));
  EXPECT_THAT(Matches(R"([]a]|[^]b])", "]ab"), ElementsAre("]", "a"));
}

TEST(PatternTest, RefusesWhatWouldMeanSomethingElse) {
  for (const char* regex :
       {"[a[^b]]", "[a-[b]]", "[a&&b]", R"(\h)", R"([\W])", "(?m:a)", "(?s)a", "a{1,2}+", "(*UTF)a"}) {
    const auto pattern = Pattern::FromRegex(regex);
    EXPECT_THAT(std::string(pattern.status().message()), HasSubstr("not supported")) << regex;
  }
  for (const char* regex :
       {"(", "[", "a{99999}", "*", "\\", "(?<n", "[[:alpha:", R"(\p{Nonsense})", R"(\p{)", R"(\C)"}) {
    EXPECT_EQ(Pattern::FromRegex(regex).status().code(), absl::StatusCode::kInvalidArgument) << regex;
  }
  EXPECT_EQ(Pattern::FromRegex(std::string(1 << 20, 'a')).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Pattern::FromRegex(std::string(5000, '(')).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(PatternTest, CatastrophicBacktrackingEndsInAnError) {
  const auto pattern = Pattern::FromRegex("(a|a|aa)*[bc]");
  ASSERT_TRUE(pattern.ok());
  std::vector<Pattern::Match> matches;
  EXPECT_EQ(pattern->FindAll(std::string(200, 'a'), &matches).code(), absl::StatusCode::kResourceExhausted);
}

// Each of these makes an alternative run over all of the text and back before the next is tried.
TEST(PatternTest, LongRunsAreNotCatastrophic) {
  constexpr char kQwen[] =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  const auto pattern = Pattern::FromRegex(kQwen);
  ASSERT_TRUE(pattern.ok());
  for (const char c : {' ', 'x', '!', '\n', '7'}) {
    std::vector<Pattern::Match> matches;
    EXPECT_TRUE(pattern->FindAll(std::string(4 << 20, c), &matches).ok()) << c;
    EXPECT_EQ(matches.size(), c == '7' ? size_t{4} << 20 : 1u);
  }
}

// Groups need a stack that grows with the text; the fallback without JIT has it on the heap.
TEST(PatternTest, DeepGroupsMatchOrFailButDoNotCrash) {
  const auto pattern = Pattern::FromRegex("(?:(a)|b)*c");
  ASSERT_TRUE(pattern.ok());
  std::vector<Pattern::Match> matches;
  const absl::Status status = pattern->FindAll(std::string(100'000, 'a') + "c", &matches);
  EXPECT_TRUE(status.ok() ? matches.size() == 1 : status.code() == absl::StatusCode::kResourceExhausted)
      << status;
}

TEST(PatternTest, LiteralsAreFoundAsTheyAre) {
  const Pattern pattern = Pattern::FromLiteral("a.");
  std::vector<Pattern::Match> matches;
  EXPECT_TRUE(pattern.FindAll("a.a.ab.a", &matches).ok());
  ASSERT_EQ(matches.size(), 2u);
  EXPECT_EQ(matches[1].begin, 2u);
  EXPECT_EQ(matches[1].end, 4u);
}

}  // namespace
}  // namespace clamor
