#include "retrieval/token_text.h"

#include <cstring>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tests/retrieval/packed_tokens.h"
#include "tests/retrieval/test_support.h"

namespace clamor::retrieval {
namespace {

TEST(TokenTextTest, IsTheTokensThatWereSet) {
  std::mt19937_64 random(1);
  for (const uint32_t different : {1u, 2u, 3u, 4u, 200u, 255u, 256u, 257u, 65'535u, 65'537u}) {
    for (const size_t size : {size_t{1}, size_t{7}, size_t{64}, size_t{3'000}}) {
      Tokens tokens = RandomTokens(random, size, different);
      for (uint32_t& token : tokens) token *= kTokenLimit / different;
      if (size > 1) tokens[size / 2] = kEndMark;
      const PackedTokens packed(tokens);
      const TokenText& text = packed.text();
      ASSERT_EQ(text.size(), size);
      for (uint32_t i = 0; i < size; ++i) {
        ASSERT_EQ(text[i], tokens[i]) << i << " of " << size;
        ASSERT_EQ(text.Code(i) < text.Code(static_cast<uint32_t>(size / 2)), tokens[i] < tokens[size / 2]);
        ASSERT_EQ(text.Code(i) == text.end_code(), tokens[i] == kEndMark);
      }
    }
  }
}

TEST(TokenTextTest, NeedsNoMoreBitsThanTheDictionary) {
  EXPECT_EQ(TokenText::Width(2), 1u);
  EXPECT_EQ(TokenText::Width(3), 2u);
  EXPECT_EQ(TokenText::Width(65'536), 16u);
  EXPECT_EQ(TokenText::Width(65'537), 17u);
  EXPECT_EQ(TokenText::Width(~uint32_t{0}), TokenText::kMaxWidth);
  EXPECT_EQ(TokenText::Bytes(65'536, 1'000), 2'008u);
  EXPECT_EQ(TokenText::Bytes(151'936, 0), 8u);
}

TEST(TokenTextTest, SettingOneLeavesTheOthers) {
  std::mt19937_64 random(2);
  Tokens tokens = RandomTokens(random, 500, 11);
  PackedTokens packed(tokens);
  TokenText text = packed.text();
  for (int round = 0; round < 5'000; ++round) {
    const auto index = static_cast<uint32_t>(random() % tokens.size());
    const auto code = static_cast<uint32_t>(random() % packed.dictionary().size());
    text.Set(index, code);
    tokens[index] = packed.dictionary()[code];
    const auto other = static_cast<uint32_t>(random() % tokens.size());
    ASSERT_EQ(text[other], tokens[other]);
  }
  for (uint32_t i = 0; i < tokens.size(); ++i) ASSERT_EQ(text[i], tokens[i]);
}

TEST(TokenTextTest, AWindowIsAPartAndNoMore) {
  std::mt19937_64 random(3);
  for (const uint32_t different : {1u, 6u, 300u, 70'000u}) {
    const Tokens tokens = RandomTokens(random, 700, different);
    const PackedTokens packed(tokens);
    for (int round = 0; round < 500; ++round) {
      const auto first = static_cast<uint32_t>(random() % tokens.size());
      const auto count = static_cast<uint32_t>(random() % (tokens.size() - first + 1));
      const auto window = packed.text().Window(first, count);
      ASSERT_LE(window.size(), TokenText::WindowBytes(count));
      const std::vector<std::byte> copy(window.begin(), window.end());  // sanitizers watch its ends
      const TokenRun run(packed.text(), first, count, copy.data());
      ASSERT_EQ(run.size(), count);
      for (uint32_t i = 0; i < count; ++i) ASSERT_EQ(run[i], tokens[first + i]);
    }
  }
}

TEST(TokenTextTest, ACodeThatIsNoEntryIsTheEndMark) {
  const PackedTokens packed(Tokens{5, 6, 7, 5});  // five entries in three bits
  const std::span<std::byte> bytes = packed.text().bytes();
  std::memset(bytes.data(), 0xff, bytes.size());
  for (uint32_t i = 0; i < 4; ++i) EXPECT_EQ(packed.text()[i], kEndMark);
  EXPECT_EQ(TokenRun(packed.text(), 0, 4, bytes.data())[2], kEndMark);
}

}  // namespace
}  // namespace clamor::retrieval
