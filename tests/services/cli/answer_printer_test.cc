#include "services/cli/answer_printer.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <utility>
#include <vector>

namespace clamor::cli {
namespace {

Delta MakeDelta(const std::string& text, std::vector<std::pair<Source, uint32_t>> tokens) {
  Delta delta;
  delta.text = text;
  for (const auto& [source, bytes] : tokens) {
    delta.token_ids.push_back(1);
    delta.sources.push_back(source);
    delta.text_bytes.push_back(bytes);
  }
  return delta;
}

TEST(AnswerPrinterTest, DraftedTokensAreGreenAndNothingElse) {
  AnswerPrinter printer(/*show_drafts=*/true);
  EXPECT_EQ(
      printer.Render(MakeDelta("abcdef", {{Source::kJacobi, 2}, {Source::kStore, 1}, {Source::kNone, 3}})),
      "\033[32mabc\033[0mdef");
  EXPECT_EQ(printer.Render(MakeDelta("gh", {{Source::kNone, 2}})), "gh");
}

TEST(AnswerPrinterTest, TextMayLagBehindItsTokens) {
  AnswerPrinter printer(/*show_drafts=*/true);
  EXPECT_EQ(printer.Render(MakeDelta("a", {{Source::kContext, 3}, {Source::kNone, 0}})), "\033[32ma\033[0m");
  EXPECT_EQ(printer.Render(MakeDelta("bcd", {{Source::kNone, 2}})), "\033[32mbc\033[0md");
  EXPECT_EQ(printer.Render(MakeDelta("e?", {})), "e?") << "text of no known token is plain";
}

TEST(AnswerPrinterTest, WithoutDraftsItIsTheText) {
  AnswerPrinter printer(/*show_drafts=*/false);
  EXPECT_EQ(printer.Render(MakeDelta("abc", {{Source::kJacobi, 3}})), "abc");
}

// Whatever is held back and however it is cut into deltas: each byte has the colour of its token.
TEST(AnswerPrinterTest, EachByteHasTheColourOfItsToken) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    AnswerPrinter printer(/*show_drafts=*/true);
    std::string expected, pending, shown;  // expected: the colour of each byte
    for (int step = 0; step < 20; ++step) {
      Delta delta;
      for (unsigned token = random() % 4; token > 0; --token) {
        const bool drafted = random() % 2 == 0;
        const uint32_t bytes = random() % 5;
        delta.sources.push_back(drafted ? Source::kContext : Source::kNone);
        delta.text_bytes.push_back(bytes);
        expected.append(bytes, drafted ? 'D' : '.');
        pending.append(bytes, 'x');
      }
      const size_t certain = step == 19 ? pending.size() : random() % (pending.size() + 1);
      delta.text = pending.substr(0, certain);
      pending.erase(0, certain);
      shown += printer.Render(delta);
    }
    std::string colours;
    bool green = false;
    for (size_t i = 0; i < shown.size(); ++i) {
      if (shown[i] == '\033') {
        green = shown[i + 1] == '[' && shown[i + 2] == '3';
        i = shown.find('m', i);
      } else {
        colours += green ? 'D' : '.';
      }
    }
    ASSERT_EQ(colours, expected);
  }
}

}  // namespace
}  // namespace clamor::cli
