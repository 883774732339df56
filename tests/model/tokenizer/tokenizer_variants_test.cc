// Every normalizer, pre-tokenizer, model option, added-token flag, post-processor and decoder, against what
// the tokenizers library recorded (testdata/record_tokenizers.py).
#include "tests/model/tokenizer/testing.h"

namespace clamor {
namespace {

using ::clamor::testing::Ids;
using ::clamor::testing::LoadTokenizer;

TEST(TokenizerVariantsTest, EqualTheTokenizersLibrary) {
  const auto recorded = testing::ReadJson(TOKENIZER_TESTDATA "/tokenizer_variants.json");
  ASSERT_GT(recorded["variants"].size(), 100u);
  for (const auto& variant : recorded["variants"]) {
    SCOPED_TRACE(variant["patch"].dump());
    const auto tokenizer =
        LoadTokenizer(testing::Patched(testing::FilesOf(variant["base"]), variant["patch"]));
    ASSERT_NE(tokenizer, nullptr);
    for (size_t i = 0; i < recorded["texts"].size(); ++i) {
      const std::string text = recorded["texts"][i];
      EXPECT_EQ(tokenizer->Encode(text, {}).value(), Ids(variant["ids"][i])) << text;
      const Tokenizer::EncodeOptions plain = {.add_specials = false,
                                              .specials = Tokenizer::Specials::kPlainText};
      EXPECT_EQ(tokenizer->Encode(text, plain).value(), Ids(variant["plain"][i])) << text;
    }
    for (const auto& decoded : variant["decoded"]) {
      const std::vector<int32_t> ids = Ids(decoded[0]);
      EXPECT_EQ(tokenizer->Decode(ids, /*skip_specials=*/true).value(), decoded[1]) << decoded[0];
      EXPECT_EQ(tokenizer->Decode(ids, /*skip_specials=*/false).value(), decoded[2]) << decoded[0];
    }
  }
}

}  // namespace
}  // namespace clamor
