// Against cutting the whole text at the first stop string, for every way of cutting texts into tokens.
#include "model/spec/answer_text.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace clamor {
namespace {

const Tokenizer& TinyTokenizer(const std::string& family) {
  static auto& loaded = *new std::map<std::string, std::unique_ptr<Tokenizer>>;
  auto& tokenizer = loaded[family];
  if (tokenizer == nullptr) {
    const auto files = TokenizerFiles::Read(std::string(CLAMOR_TESTDATA) + "/tiny-" + family);
    auto result = files.ok() ? Tokenizer::Load(*files) : files.status();
    EXPECT_TRUE(result.ok()) << result.status();
    tokenizer = *std::move(result);
  }
  return *tokenizer;
}

std::vector<int32_t> Encode(const Tokenizer& tokenizer, std::string_view text) {
  const auto ids = tokenizer.Encode(text, {.add_specials = false});
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.value();
}

struct Streamed {
  std::string text;
  std::string matched_stop;
  size_t tokens = 0;   // read before the answer ended
  size_t counted = 0;  // bytes, token by token
};

Streamed Stream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids,
                const std::vector<std::string>& stops, int64_t min_tokens = 0) {
  AnswerText answer(&tokenizer, stops, min_tokens);
  Streamed result;
  for (const int32_t id : ids) {
    ++result.tokens;
    std::string piece;
    const bool stopped = answer.Add(id, piece);
    result.text += piece;
    result.counted += answer.newest_bytes();
    EXPECT_GE(result.counted, result.text.size()) << "text of no token";
    EXPECT_EQ(stopped, !answer.matched_stop().empty());
    if (stopped) break;
  }
  answer.Finish(result.text);
  result.matched_stop = answer.matched_stop();
  return result;
}

// The dull twin: decode each prefix as a whole and look for a stop string in it. Text that Decode may still
// change, or that is half a character, is not looked at before the end. A stop string must end after the text
// of the first `min_tokens` tokens.
Streamed NaiveStream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids,
                     const std::vector<std::string>& stops, size_t min_tokens = 0) {
  StreamDecoder decoder(&tokenizer, /*skip_specials=*/true);
  Streamed result;
  size_t sure = 0;  // bytes of those tokens
  const auto cut = [&] {
    size_t first = std::string::npos;
    if (result.tokens <= min_tokens) sure = result.text.size();
    for (const std::string& stop : stops) {
      size_t at = result.text.find(stop);
      while (at != std::string::npos && at + stop.size() <= sure) at = result.text.find(stop, at + 1);
      if (at < first) {
        first = at;
        result.matched_stop = stop;
      }
    }
    if (first != std::string::npos) result.text.resize(first);
    return first != std::string::npos;
  };
  for (const int32_t id : ids) {
    ++result.tokens;
    result.text += decoder.Add(id);
    if (cut()) return result;
  }
  result.text += decoder.Finish();
  cut();
  return result;
}

class AnswerTextTest : public testing::TestWithParam<std::string> {
 protected:
  const Tokenizer& tokenizer_ = TinyTokenizer(GetParam());
};

constexpr std::string_view kTexts[] = {
    "Hello, world! The quick brown fox jumps over the lazy dog.",
    "aaaaaaaaaabaaaaaaaaaab",
    "def f(x):\n    return x\n\n\nprint(f(12345))\n",
    "na\xC3\xAFve caf\xC3\xA9 \xE4\xBD\xA0\xE5\xA5\xBD \xF0\x9F\x98\x80\xF0\x9F\x98\x81 done",
    "####ababababc####",
};

TEST_P(AnswerTextTest, WithoutStopsItIsTheDecodedText) {
  for (const std::string_view text : kTexts) {
    const auto ids = Encode(tokenizer_, text);
    const Streamed streamed = Stream(tokenizer_, ids, {});
    EXPECT_EQ(streamed.text, tokenizer_.Decode(ids, true).value());
    EXPECT_EQ(streamed.counted, streamed.text.size());
  }
}

// Every substring of every text as a stop string: most begin and end inside tokens.
TEST_P(AnswerTextTest, EverySubstringAsStop) {
  for (const std::string_view text : kTexts) {
    const auto ids = Encode(tokenizer_, text);
    const std::string decoded = tokenizer_.Decode(ids, true).value();
    for (size_t begin = 0; begin < decoded.size(); ++begin) {
      for (size_t size = 1; size <= 12 && begin + size <= decoded.size(); size += size < 4 ? 1 : 4) {
        const std::string stop = decoded.substr(begin, size);
        const Streamed got = Stream(tokenizer_, ids, {stop});
        ASSERT_EQ(got.text, decoded.substr(0, decoded.find(stop))) << "stop '" << stop << "'";
        ASSERT_EQ(got.matched_stop, stop);
      }
    }
  }
}

TEST_P(AnswerTextTest, RandomStopsAgainstTheWholeText) {
  std::mt19937 random(1);
  for (int round = 0; round < 3000; ++round) {
    const std::string_view text = kTexts[random() % std::size(kTexts)];
    const auto ids = Encode(tokenizer_, text);
    std::vector<std::string> stops;
    for (size_t n = random() % 4; n > 0; --n) {
      // A piece of the text, sometimes with a wrong end, so that much is held back for nothing.
      std::string stop(text.substr(random() % text.size(), 1 + random() % 6));
      if (random() % 3 == 0) stop += '~';
      stops.push_back(stop);
    }
    const int min_tokens = random() % 2 ? 0 : static_cast<int>(random() % (ids.size() + 2));
    const Streamed got = Stream(tokenizer_, ids, stops, min_tokens),
                   expected = NaiveStream(tokenizer_, ids, stops, min_tokens);
    ASSERT_EQ(got.text, expected.text) << testing::PrintToString(stops);
    ASSERT_EQ(got.matched_stop, expected.matched_stop) << testing::PrintToString(stops);
    ASSERT_EQ(got.tokens, expected.tokens)
        << "the answer must end with the token that completes the stop string";
  }
}

// Random tokens: broken UTF-8, special tokens, everything.
TEST_P(AnswerTextTest, RandomTokens) {
  std::mt19937 random(2);
  for (int round = 0; round < 1000; ++round) {
    std::vector<int32_t> ids(1 + random() % 30);
    for (int32_t& id : ids)
      id = static_cast<int32_t>(random() % static_cast<uint32_t>(tokenizer_.vocab_size()));
    EXPECT_EQ(Stream(tokenizer_, ids, {}).text, tokenizer_.Decode(ids, true).value());
    const std::vector<std::string> stops = {"e", "\xEF\xBF\xBD", "th"};
    const Streamed got = Stream(tokenizer_, ids, stops), expected = NaiveStream(tokenizer_, ids, stops);
    ASSERT_EQ(got.text, expected.text);
    ASSERT_EQ(got.matched_stop, expected.matched_stop);
  }
}

TEST_P(AnswerTextTest, OfOverlappingStopsTheOneThatBeginsFirst) {
  const auto ids = Encode(tokenizer_, "####ababababc####");
  EXPECT_EQ(Stream(tokenizer_, ids, {"c####", "bc"}).text, "####abababa");
  EXPECT_EQ(Stream(tokenizer_, ids, {"babc", "abc"}).text, "####ababa");
}

// After each token: all that is decoded but its longest end that a stop string begins with.
TEST_P(AnswerTextTest, HoldsBackOnlyWhatCouldStillStop) {
  const std::string stops[] = {"abcabd~", "bcabcabe", "d and x"};
  const auto ids = Encode(tokenizer_, "say abcabcabd and more, abcab");
  AnswerText answer(&tokenizer_, {std::begin(stops), std::end(stops)});
  StreamDecoder decoder(&tokenizer_, /*skip_specials=*/true);
  std::string sent, decoded;
  size_t most_held = 0;
  for (const int32_t id : ids) {
    ASSERT_FALSE(answer.Add(id, sent));
    decoded += decoder.Add(id);
    size_t held = 0;
    for (const std::string& stop : stops) {
      for (size_t n = 1; n < stop.size(); ++n) {
        if (decoded.ends_with(stop.substr(0, n))) held = std::max(held, n);
      }
    }
    ASSERT_EQ(sent, decoded.substr(0, decoded.size() - held));
    most_held = std::max(most_held, held);
  }
  EXPECT_GE(most_held, 6u);
  answer.Finish(sent);
  EXPECT_EQ(sent, tokenizer_.Decode(ids, true).value());
}

TEST_P(AnswerTextTest, NoStopStringEndsTheFirstTokens) {
  const auto ids = Encode(tokenizer_, "####ababababc####");
  const std::string whole = tokenizer_.Decode(ids, true).value();
  const auto all = static_cast<int64_t>(ids.size());
  const Streamed plain = Stream(tokenizer_, ids, {"#", "ab"});
  EXPECT_EQ(plain.matched_stop, "#");
  const Streamed late = Stream(tokenizer_, ids, {"#", "ab"}, all);
  EXPECT_EQ(late.text, whole);
  EXPECT_EQ(late.matched_stop, "");
  // One that begins in them and is complete after them ends the answer, before its first character.
  const Streamed across = Stream(tokenizer_, ids, {whole}, all - 1);
  EXPECT_EQ(across.text, "");
  EXPECT_EQ(across.matched_stop, whole);
  EXPECT_EQ(Stream(tokenizer_, ids, {whole}, all).text, whole);
}

TEST_P(AnswerTextTest, NothingAfterAStop) {
  const auto ids = Encode(tokenizer_, "one two three");
  AnswerText answer(&tokenizer_, {"two"});
  std::string text;
  size_t i = 0;
  while (i < ids.size() && !answer.Add(ids[i++], text)) {
  }
  const std::string before = text;
  answer.Finish(text);
  EXPECT_EQ(text, before);
  EXPECT_EQ(answer.matched_stop(), "two");
  EXPECT_FALSE(text.find("two") != std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Families, AnswerTextTest, testing::Values("llama", "qwen2", "qwen3", "mistral"),
                         [](const auto& info) { return info.param; });

TEST(AnswerText, WithoutATokenizerThereIsNoText) {
  AnswerText answer(nullptr, {"a"});
  std::string text;
  for (int32_t id = 0; id < 100; ++id) EXPECT_FALSE(answer.Add(id, text));
  answer.Finish(text);
  EXPECT_EQ(text, "");
  EXPECT_EQ(answer.matched_stop(), "");
}

}  // namespace
}  // namespace clamor
