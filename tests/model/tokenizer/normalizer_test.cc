// What each normalizer does to ids is in tokenizer_variants_test.cc; here is what only the class can show.
#include "model/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <cstdlib>
#include <random>

#include "gtest/gtest.h"
#include "model/tokenizer/utf8.h"

namespace clamor {
namespace {

Normalizer Make(const nlohmann::json& json) { return Normalizer::FromJson(json, "normalizer").value(); }

std::string Apply(const Normalizer& normalizer, const std::string& text) {
  MarkedText marked(text);
  EXPECT_TRUE(normalizer.Apply(&marked).ok());
  return marked.text();
}

std::string ByUtf8proc(const std::string& text, int options) {
  utf8proc_uint8_t* out = nullptr;
  const auto size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                 static_cast<utf8proc_ssize_t>(text.size()), &out,
                                 static_cast<utf8proc_option_t>(options | UTF8PROC_STABLE));
  const std::string result(reinterpret_cast<char*>(out), static_cast<size_t>(size));
  std::free(out);
  return result;
}

TEST(NormalizerTest, UnicodeFormsEqualUtf8procOnRandomText) {
  const uint32_t alphabet[] = {'a',    'b',    ' ',    'e',     0xE9,    0x300,  0x301, 0x315,
                               0x327,  0x345,  0x1100, 0x1161,  0x11A8,  0xAC00, 0x958, 0x93C,
                               0xFB01, 0x2460, 0xFDFA, 0x1F642, 0x1D15E, 0x0344, 0x212B};
  const std::pair<const char*, int> forms[] = {{"NFC", UTF8PROC_COMPOSE},
                                               {"NFD", UTF8PROC_DECOMPOSE},
                                               {"NFKC", UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
                                               {"NFKD", UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT}};
  std::mt19937 random(1);
  for (const auto& [name, options] : forms) {
    const Normalizer normalizer = Make({{"type", name}});
    for (int round = 0; round < 3000; ++round) {
      std::string text;
      for (auto n = random() % 12; n > 0; --n) AppendUtf8(alphabet[random() % std::size(alphabet)], &text);
      ASSERT_EQ(Apply(normalizer, text), ByUtf8proc(text, options)) << name << ": " << text;
    }
  }
}

TEST(NormalizerTest, MarksInTheWrongOrderDoNotTakeQuadraticTime) {
  std::string text = "a";
  for (int i = 0; i < 500'000; ++i) text += i % 2 == 0 ? "\u0315" : "\u0300";
  EXPECT_EQ(Apply(Make({{"type", "NFC"}}), text).substr(0, 4), "\u00e0\u0300");
}

TEST(NormalizerTest, MarksOfTheUserStayOnWhatTheyWrote) {
  MarkedText text("T e");
  text.Append("\u0301 x", /*marked=*/true);
  text.Append(" T");
  const Normalizer normalizer =
      Make({{"type", "Sequence"},
            {"normalizers",
             {{{"type", "NFC"}},
              {{"type", "Lowercase"}},
              {{"type", "Prepend"}, {"prepend", "_"}},
              {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "__"}}}}});
  ASSERT_TRUE(normalizer.Apply(&text).ok());
  ASSERT_EQ(text.text(), "_t__\u00e9__x__t");
  std::string marks;
  for (size_t i = 0; i < text.size(); ++i) marks += text.AnyMarked(i, i + 1) ? '*' : '.';
  EXPECT_EQ(marks, "....*****...");
}

TEST(NormalizerTest, RefusesWhatItDoesNotKnow) {
  const auto refused = Normalizer::FromJson({{"type", "Precompiled"}}, "tokenizer.json: normalizer");
  EXPECT_EQ(refused.status().message(),
            "tokenizer.json: normalizer.type: \"Precompiled\"; expected NFC, NFD, NFKC, NFKD, Lowercase, "
            "Prepend, Replace, "
            "Strip or Sequence");
}

TEST(NormalizerTest, ReplacementsOutOfProportionAreRefused) {
  const Normalizer normalizer =
      Make({{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(1024, 'b')}});
  MarkedText text(std::string(1 << 20, 'a'));
  EXPECT_EQ(normalizer.Apply(&text).code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace clamor
