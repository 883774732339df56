#include "model/tokenizer/utf8.h"

#include "gtest/gtest.h"

namespace clamor {
namespace {

std::string Lossy(std::string_view bytes) {
  std::string out;
  EXPECT_EQ(AppendLossyUtf8(bytes, /*at_end=*/true, &out), bytes.size());
  return out;
}

TEST(Utf8Test, EveryCodePointSurvivesARoundTrip) {
  for (uint32_t code = 0; code <= 0x10FFFF; ++code) {
    if (code >= 0xD800 && code <= 0xDFFF) continue;
    std::string encoded;
    AppendUtf8(code, &encoded);
    const Utf8Char c = FirstChar(encoded);
    ASSERT_EQ(c.validity, Utf8Validity::kValid) << code;
    ASSERT_EQ(c.code, code);
    ASSERT_EQ(c.size, encoded.size());
    for (size_t cut = 1; cut < encoded.size(); ++cut) {
      ASSERT_EQ(FirstChar(std::string_view(encoded).substr(0, cut)).validity, Utf8Validity::kIncomplete)
          << code;
    }
  }
}

// A plain decoder: shift the bits together, then ask whether the result was allowed.
bool IsValidByArithmetic(std::string_view s) {
  for (size_t i = 0; i < s.size();) {
    const auto first = static_cast<unsigned char>(s[i]);
    const size_t size = first < 0x80       ? 1
                        : first >> 5 == 6  ? 2
                        : first >> 4 == 14 ? 3
                        : first >> 3 == 30 ? 4
                                           : 0;
    if (size == 0 || i + size > s.size()) return false;
    uint32_t code = size == 1 ? first : first & (0x7Fu >> size);
    for (size_t k = 1; k < size; ++k) {
      if ((static_cast<unsigned char>(s[i + k]) & 0xC0) != 0x80) return false;
      code = code << 6 | (static_cast<unsigned char>(s[i + k]) & 0x3F);
    }
    constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
    if (code < kLeast[size] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) return false;
    i += size;
  }
  return true;
}

TEST(Utf8Test, AllStringsOfTelltaleBytesAreJudgedRight) {
  const unsigned char bytes[] = {0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC1, 0xC2,
                                 0xDF, 0xE0, 0xE1, 0xED, 0xEF, 0xF0, 0xF1, 0xF4, 0xF5, 0xFF};
  constexpr size_t kBytes = sizeof(bytes);
  for (size_t n = 0; n < kBytes * kBytes * kBytes * kBytes; ++n) {
    std::string s;
    for (size_t rest = n, i = 0; i < 4; ++i, rest /= kBytes)
      s.push_back(static_cast<char>(bytes[rest % kBytes]));
    ASSERT_EQ(!FindInvalidUtf8(s).has_value(), IsValidByArithmetic(s)) << n;
    ASSERT_TRUE(IsValidByArithmetic(Lossy(s))) << n;
    if (IsValidByArithmetic(s)) {
      ASSERT_EQ(Lossy(s), s);
    }
  }
}

// The examples of the Unicode standard, section 3.9, tables 3-8 to 3-11.
TEST(Utf8Test, MaximalSubpartsBecomeOneReplacementEach) {
  const std::string r = "\uFFFD";
  EXPECT_EQ(Lossy("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(Lossy("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(Lossy("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"), r + r + r + r + r + "A" + r + r + "B");
  EXPECT_EQ(Lossy("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), r + r + r + r + "A");
}

TEST(Utf8Test, AnIncompleteEndIsLeftAloneUntilTheEnd) {
  std::string out;
  EXPECT_EQ(AppendLossyUtf8("ab\xE2\x82", /*at_end=*/false, &out), 2u);
  EXPECT_EQ(out, "ab");
  EXPECT_EQ(Lossy("ab\xE2\x82"), "ab\uFFFD");
}

TEST(Utf8Test, FindsTheFirstInvalidByte) {
  EXPECT_EQ(FindInvalidUtf8("héllo"), std::nullopt);
  EXPECT_EQ(FindInvalidUtf8("ab\xFFz"), 2u);
  EXPECT_EQ(FindInvalidUtf8("ab\xE2\x82"), 2u);
}

}  // namespace
}  // namespace clamor
