#include "model/grammar/token_mask.h"

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "model/grammar/json_schema.h"
#include "model/random.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/model/grammar/dull_grammar.h"
#include "tests/model/grammar/schemas.h"

namespace clamor {
namespace {

using testing::DullMatcher;
using testing::ParseSchema;
using testing::Schemas;
using testing::TextMaker;

std::unique_ptr<Tokenizer> LoadTokenizer(const std::string& model_dir) {
  auto files = TokenizerFiles::Read(model_dir);
  EXPECT_TRUE(files.ok()) << files.status();
  auto tokenizer = Tokenizer::Load(*files);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

std::shared_ptr<const Grammar> Compile(const std::string& schema) {
  auto grammar = CompileJsonSchema(schema);
  EXPECT_TRUE(grammar.ok()) << schema << "\n" << grammar.status();
  return std::make_shared<const Grammar>(*std::move(grammar));
}

bool Has(std::span<const uint64_t> mask, int32_t id) { return (mask[id / 64] >> (id % 64) & 1) != 0; }

// What Allowed has to be: every id for itself, byte by byte.
std::vector<int32_t> DullAllowed(const Grammar& grammar, const TokenTrie& tokens, int32_t end_id,
                                 const GrammarState& state) {
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < tokens.vocab_size(); ++id) {
    GrammarState next = state;
    bool alive = !tokens.Bytes(id).empty();
    for (const char c : tokens.Bytes(id))
      alive = alive && grammar.Advance(&next, static_cast<unsigned char>(c));
    if (id == end_id ? grammar.AtEnd(state) : alive) ids.push_back(id);
  }
  return ids;
}

std::vector<int32_t> IdsOf(std::span<const uint64_t> mask) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i < mask.size() * 64; ++i) {
    if (Has(mask, static_cast<int32_t>(i))) ids.push_back(static_cast<int32_t>(i));
  }
  return ids;
}

class EveryTokenizer : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Tokenizer> tokenizer_ = LoadTokenizer(GetParam());
  std::shared_ptr<const TokenTrie> tokens_ = std::make_shared<const TokenTrie>(*tokenizer_);
};
INSTANTIATE_TEST_SUITE_P(TokenMask, EveryTokenizer,
                         ::testing::Values(CLAMOR_TESTDATA "/tiny-llama", CLAMOR_TESTDATA "/tiny-mistral",
                                           CLAMOR_TESTDATA "/tiny-qwen3", CLAMOR_DEMO_MODEL));

TEST_P(EveryTokenizer, BytesMakeTheText) {
  const std::string text = "a{\"k\": [1, \"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x99\x82\\n\"]}\n  z";
  const auto ids = tokenizer_->Encode(text, {.add_specials = false});
  ASSERT_TRUE(ids.ok()) << ids.status();
  std::string bytes;
  for (const int32_t id : *ids) bytes += tokens_->Bytes(id);
  // SentencePiece tokenizers put a space before the text.
  EXPECT_EQ(bytes.substr(bytes[0] == ' ' ? 1 : 0), text);
  EXPECT_EQ(tokens_->Bytes(0), "") << "special";
  EXPECT_EQ(tokens_->Bytes(-1), "");
  EXPECT_EQ(tokens_->Bytes(tokens_->vocab_size()), "");
}

TEST_P(EveryTokenizer, MasksAsEachIdForItselfSays) {
  uint64_t random = 6;
  for (const std::string& schema : Schemas()) {
    const auto grammar = Compile(schema);
    const int32_t end_id = 2;
    TokenMask mask(grammar, tokens_, {end_id, -1, 1 << 30}, /*max_cached=*/8);
    TextMaker maker(ParseSchema(schema), /*seed=*/7);
    for (int i = 0; i < 3; ++i) {
      const std::string text = maker.Text();
      GrammarState state = grammar->Start();
      for (const char c : text) {
        if (RandomBelow(random, tokens_->vocab_size() > 1000 ? 16 : 4) == 0) {
          ASSERT_EQ(IdsOf(mask.Allowed(state)), DullAllowed(*grammar, *tokens_, end_id, state))
              << schema << text;
        }
        GrammarState next = state;
        if (!grammar->Advance(&next, static_cast<unsigned char>(c))) break;
        state = next;
      }
      ASSERT_EQ(IdsOf(mask.Allowed(state)), DullAllowed(*grammar, *tokens_, end_id, state)) << schema << text;
    }
  }
}

TEST_P(EveryTokenizer, SampledTextsFitTheSchema) {
  uint64_t random = 8;
  int ended = 0;
  for (const std::string& schema : Schemas()) {
    const auto grammar = Compile(schema);
    const int32_t end_id = 0;
    TokenMask mask(grammar, tokens_, {end_id});
    DullMatcher twin(ParseSchema(schema));
    for (int i = 0; i < 5; ++i) {
      GrammarState state = grammar->Start();
      std::vector<int32_t> ids;
      while (ids.size() < 60) {
        const std::vector<int32_t> allowed = IdsOf(mask.Allowed(state));
        ASSERT_FALSE(allowed.empty()) << schema;
        const bool end = allowed.front() == end_id && RandomBelow(random, 2) == 0;
        const int32_t id = end ? end_id : allowed[RandomBelow(random, allowed.size())];
        ASSERT_TRUE(mask.Advance(&state, id));
        if (id == end_id) break;
        ids.push_back(id);
      }
      if (!grammar->AtEnd(state)) continue;
      ++ended;
      const auto text = tokenizer_->Decode(ids, /*skip_specials=*/true);
      ASSERT_TRUE(text.ok()) << text.status();
      EXPECT_TRUE(testing::Json::accept(*text)) << *text;
      EXPECT_TRUE(twin.Accepts(*text)) << schema << "\n" << *text;
    }
  }
  EXPECT_GT(ended, 40);
}

TEST_P(EveryTokenizer, AdvanceIsTheMask) {
  const auto grammar = Compile(R"({"properties": {"name": {"maxLength": 3}, "ok": {"type": "boolean"}}})");
  TokenMask mask(grammar, tokens_, {1});
  GrammarState state = grammar->Start();
  for (const char* text : {"", "{\"", "name", "\": \"", "ab", "\"}"}) {
    for (const char c : std::string(text))
      ASSERT_TRUE(grammar->Advance(&state, static_cast<unsigned char>(c)));
    const std::vector<uint64_t> allowed(mask.Allowed(state).begin(), mask.Allowed(state).end());
    for (int32_t id = -1; id <= tokens_->vocab_size(); ++id) {
      GrammarState next = state;
      const bool fits = mask.Advance(&next, id);
      ASSERT_EQ(fits, id >= 0 && id < tokens_->vocab_size() && Has(allowed, id)) << id;
      ASSERT_TRUE(fits || next == state) << id;
    }
  }
}

TEST(TokenTrie, SpellsAsciiWithSingleTokensBelowTheLimit) {
  std::vector<std::string> bytes;
  for (char c = ' '; c <= '~'; ++c) bytes.emplace_back(1, c);
  const int32_t all = static_cast<int32_t>(bytes.size());
  EXPECT_TRUE(TokenTrie(bytes).SpellsAscii(all));
  EXPECT_TRUE(TokenTrie(bytes).SpellsAscii(all + 1000));
  EXPECT_FALSE(TokenTrie(bytes).SpellsAscii(all - 1)) << "the model has no row for the last";
  bytes['{' - ' '] = "{\"";
  EXPECT_FALSE(TokenTrie(bytes).SpellsAscii(all));
}

TEST(TokenMask, EndIsAllowedExactlyWhereTheTextIsComplete) {
  const auto tokens =
      std::make_shared<const TokenTrie>(std::vector<std::string>{"", "1", "2", "-", "", "12"});
  TokenMask mask(Compile(R"({"enum": [1, 12, -2]})"), tokens, {4, 5});
  GrammarState state = mask.grammar().Start();
  EXPECT_EQ(IdsOf(mask.Allowed(state)), (std::vector<int32_t>{1, 3})) << "an end id is not text";
  EXPECT_FALSE(mask.Advance(&state, 4));
  ASSERT_TRUE(mask.Advance(&state, 1));
  EXPECT_EQ(IdsOf(mask.Allowed(state)), (std::vector<int32_t>{2, 4, 5}));
  EXPECT_TRUE(mask.Advance(&state, 4));
  ASSERT_TRUE(mask.Advance(&state, 2));
  EXPECT_EQ(IdsOf(mask.Allowed(state)), (std::vector<int32_t>{4, 5}));
}

TEST(TokenMask, ShortStringsTakeShortTokens) {
  const auto tokens = std::make_shared<const TokenTrie>(
      std::vector<std::string>{"a", "abc", "\xC3\xA9\xC3\xA9", "\xC3", "ab\xE2\x82", "\"", "ab\"", "\\", "\n",
                               "a\\n", "\xA9", "\xFF", std::string(300, 'x')});
  TokenMask mask(Compile(R"({"maxLength": 2})"), tokens, {});
  GrammarState state = mask.grammar().Start();
  ASSERT_TRUE(mask.Advance(&state, 5));
  EXPECT_EQ(IdsOf(mask.Allowed(state)), (std::vector<int32_t>{0, 2, 3, 5, 6, 7, 9}));
  ASSERT_TRUE(mask.Advance(&state, 3));
  EXPECT_EQ(IdsOf(mask.Allowed(state)), (std::vector<int32_t>{10}));
  ASSERT_TRUE(mask.Advance(&state, 10));
  EXPECT_EQ(IdsOf(mask.Allowed(state)), (std::vector<int32_t>{0, 3, 5, 7}));
  ASSERT_TRUE(mask.Advance(&state, 0));
  EXPECT_EQ(IdsOf(mask.Allowed(state)), (std::vector<int32_t>{5}));
}

}  // namespace
}  // namespace clamor
