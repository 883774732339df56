#include "model/grammar/grammar.h"

#include <optional>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "model/grammar/json_schema.h"
#include "model/random.h"
#include "tests/model/grammar/dull_grammar.h"
#include "tests/model/grammar/schemas.h"

namespace clamor {
namespace {

using testing::DullMatcher;
using testing::ParseSchema;
using testing::Schemas;
using testing::TextMaker;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kTexts = 20;
constexpr size_t kExhaustiveLength = 3;
#else
constexpr int kTexts = 600;
constexpr size_t kExhaustiveLength = 4;
#endif

Grammar Compile(const std::string& schema) {
  auto grammar = CompileJsonSchema(schema);
  EXPECT_TRUE(grammar.ok()) << schema << "\n" << grammar.status();
  return grammar.ok() ? *std::move(grammar) : AnyJsonObject();
}

std::optional<GrammarState> StateAfter(const Grammar& grammar, const std::string& text) {
  GrammarState state = grammar.Start();
  for (const char c : text) {
    if (!grammar.Advance(&state, static_cast<unsigned char>(c))) return std::nullopt;
  }
  return state;
}

bool Accepts(const Grammar& grammar, const std::string& text) {
  const auto state = StateAfter(grammar, text);
  return state.has_value() && grammar.AtEnd(*state);
}

// The rest of a text that ends soon: quotes and brackets before all, for they close; nothing if the state
// turns out to be a dead end.
std::optional<std::string> Ending(const Grammar& grammar, GrammarState state) {
  std::string order = "\"}]:0123456789abcdefghijklmnopqrstuvwxyz";
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    if (order.find(c) == std::string::npos && std::string(" \n,{[").find(c) == std::string::npos) order += c;
  }
  order += ",[{ \n";
  std::string text;
  while (!grammar.AtEnd(state)) {
    if (text.size() > 10000) return std::nullopt;
    bool alive = false;
    for (const char c : order) {
      GrammarState next = state;
      alive = grammar.Advance(&next, static_cast<unsigned char>(c));
      if (!alive) continue;
      state = next;
      text += c;
      break;
    }
    if (!alive) return std::nullopt;
  }
  return text;
}

std::string Mutated(std::string text, uint64_t* random) {
  static const std::string kBytes = "{}[]\",: \n\\u/dD8019-+.eEtrufalsnbx\x01\xC3\xA9\xE2\xED\xF4\xFF\x80";
  for (uint64_t edits = 1 + RandomBelow(*random, 2); edits > 0; --edits) {
    const size_t at = RandomBelow(*random, text.size() + 1);
    const char byte = kBytes[RandomBelow(*random, kBytes.size())];
    switch (RandomBelow(*random, 4)) {
      case 0:
        text.insert(at, 1, byte);
        break;
      case 1:
        text.erase(at, 1);
        break;
      case 2:
        if (at < text.size()) text[at] = byte;
        break;
      default:
        text.insert(at, text.substr(RandomBelow(*random, text.size() + 1), 6));
        break;
    }
  }
  return text;
}

class EverySchema : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Grammar, EverySchema, ::testing::ValuesIn(Schemas()));

TEST_P(EverySchema, RandomTextsAsTheDullTwinSays) {
  const Grammar grammar = Compile(GetParam());
  DullMatcher twin(ParseSchema(GetParam()));
  TextMaker maker(ParseSchema(GetParam()), /*seed=*/1);
  uint64_t random = 2;
  int accepted = 0;
  for (int i = 0; i < kTexts; ++i) {
    const std::string text = maker.Text();
    const bool expected = twin.Accepts(text);
    accepted += expected;
    ASSERT_EQ(Accepts(grammar, text), expected) << text;
    for (int j = 0; j < 4; ++j) {
      const std::string mutant = Mutated(text, &random);
      ASSERT_EQ(Accepts(grammar, mutant), twin.Accepts(mutant)) << mutant << "\nfrom " << text;
    }
  }
  EXPECT_GT(accepted, kTexts / 4) << "the maker misses the schema";
}

TEST_P(EverySchema, ShortTextsAsTheDullTwinSays) {
  const Grammar grammar = Compile(GetParam());
  DullMatcher twin(ParseSchema(GetParam()));
  const std::string alphabet = "{}[]\"a,: 1-\\";
  std::vector<std::string> texts = {""};
  for (size_t i = 0; i < texts.size(); ++i) {
    ASSERT_EQ(Accepts(grammar, texts[i]), twin.Accepts(texts[i])) << texts[i];
    if (texts[i].size() == kExhaustiveLength) continue;
    for (const char c : alphabet) texts.push_back(texts[i] + c);
  }
}

TEST_P(EverySchema, EveryLiveStateCanEnd) {
  const Grammar grammar = Compile(GetParam());
  DullMatcher twin(ParseSchema(GetParam()));
  TextMaker maker(ParseSchema(GetParam()), /*seed=*/3);
  uint64_t random = 4;
  for (int i = 0; i < kTexts / 10; ++i) {
    const std::string text = i % 2 == 0 ? maker.Text() : Mutated(maker.Text(), &random);
    GrammarState state = grammar.Start();
    for (size_t at = 0; at < text.size(); ++at) {
      const auto ending = Ending(grammar, state);
      ASSERT_TRUE(ending.has_value()) << text.substr(0, at);
      ASSERT_TRUE(twin.Accepts(text.substr(0, at) + *ending)) << text.substr(0, at) << *ending;
      if (!grammar.Advance(&state, static_cast<unsigned char>(text[at]))) break;
    }
  }
}

TEST_P(EverySchema, DeepTextsEndWithinTheLimit) {
  // Opens whatever can be opened, as deep as it goes, and still finds an end.
  const Grammar grammar = Compile(GetParam());
  DullMatcher twin(ParseSchema(GetParam()));
  std::string text;
  GrammarState state = grammar.Start();
  for (bool open = true; open;) {
    open = false;
    for (const char* step : {"{", "[", "\"a\":", "\"a\":{", "\"tail\":", "\"left\":", "\"op\":\"mul\",",
                             "\"head\":1,", "\"x\":"}) {
      const auto next = StateAfter(grammar, text + step);
      if (!next.has_value() || text.size() > 2000) continue;
      text += step;
      state = *next;
      open = true;
      break;
    }
  }
  const auto ending = Ending(grammar, state);
  ASSERT_TRUE(ending.has_value()) << text;
  EXPECT_TRUE(twin.Accepts(text + *ending)) << text << *ending;
}

TEST(Grammar, DepthEndsAtTheLimit) {
  const Grammar grammar = Compile("{}");
  const std::string deepest(kMaxGrammarDepth, '[');
  EXPECT_TRUE(Accepts(grammar, deepest + std::string(kMaxGrammarDepth, ']')));
  EXPECT_FALSE(StateAfter(grammar, deepest + "[").has_value());
  EXPECT_FALSE(StateAfter(grammar, deepest + "{").has_value());
}

TEST(Grammar, NothingIsBegunThatCannotEnd) {
  const std::string pair = R"({"prefixItems": [{"type": "integer"}], "items": false})";
  const std::string object = R"({"properties": {"a": {"type": "null"}, "b": false}})";
  // An item takes 63 levels, or 64: the list may hold one, or can only be empty.
  const std::string tall = R"({"type": "array", "items": {"$ref": "#/$defs/0"}, "$defs": {)";
  std::string defs;
  for (int i = 0; i < 62; ++i) {
    defs += "\"" + std::to_string(i) + "\": {\"items\": {\"$ref\": \"#/$defs/" + std::to_string(i + 1) +
            "\"}, \"minItems\": 1},";
  }
  const std::string least_levels = tall + defs + R"("62": {"items": {"$ref": "#"}, "maxItems": 1}}})";
  const std::string beyond = tall + defs + R"("62": {"items": {"$ref": "#"}, "minItems": 1}}})";
  EXPECT_TRUE(StateAfter(Compile(pair), "[1").has_value());
  EXPECT_FALSE(StateAfter(Compile(pair), "[1,").has_value());
  EXPECT_TRUE(StateAfter(Compile(object), "{\"a\":null").has_value());
  EXPECT_FALSE(StateAfter(Compile(object), "{\"a\":null,").has_value());
  EXPECT_FALSE(StateAfter(Compile(object), "{\"b").has_value());
  EXPECT_TRUE(StateAfter(Compile(least_levels), std::string(64, '[')).has_value());
  EXPECT_TRUE(StateAfter(Compile(beyond), "[").has_value());
  EXPECT_FALSE(StateAfter(Compile(beyond), "[[").has_value());
}

TEST(Grammar, GapsAreBounded) {
  const Grammar grammar = Compile("{}");
  EXPECT_TRUE(Accepts(grammar, "[\n" + std::string(128, ' ') + "1\n]"));
  EXPECT_FALSE(Accepts(grammar, "[\n" + std::string(129, ' ') + "1]"));
  for (const char* text : {"[ 1]", "[1 ]", "[]", "[ ]", "{\n}", "{\"a\": 1, \"b\":2 }", "[\n1,\n2]"}) {
    EXPECT_TRUE(Accepts(grammar, text)) << text;
  }
  for (const char* text : {" 1", "1 ", "[  1]", "[1 ,2]", "{\"a\" :1}", "{\"a\":  1}", "{\"a\":\n1}", "[\t1]",
                           "[ \n1]", "[\n\n1]", "[\r\n1]"}) {
    EXPECT_FALSE(Accepts(grammar, text)) << text;
  }
}

TEST(Grammar, NumbersAreBounded) {
  const Grammar numbers = Compile(R"({"type": "number"})");
  const Grammar integers = Compile(R"({"type": "integer"})");
  const std::string digits(18, '9');
  EXPECT_TRUE(Accepts(numbers, "-" + digits + "." + digits + "e-99"));
  EXPECT_TRUE(Accepts(integers, "-" + digits));
  EXPECT_FALSE(Accepts(integers, digits + "9"));
  EXPECT_FALSE(Accepts(numbers, "0." + digits + "9"));
  EXPECT_FALSE(Accepts(numbers, "1e100"));
  for (const char* text : {"01", "+1", ".5", "1.", "1e", "-", "--1", "1.5.5", "1e1e1", "NaN"}) {
    EXPECT_FALSE(Accepts(numbers, text)) << text;
  }
}

TEST(Grammar, KeysCannotBeNamedInDisguise) {
  // "a" must be an integer wherever it is a key, however it is spelled.
  const Grammar grammar =
      Compile(R"({"properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}})");
  EXPECT_TRUE(Accepts(grammar, R"({"a":1,"b":"x"})"));
  EXPECT_TRUE(Accepts(grammar, R"({"\n":"x"})"));
  EXPECT_FALSE(Accepts(grammar, R"({"a":"x"})"));
  EXPECT_FALSE(Accepts(grammar, R"({"b":"x","a":"x"})"));
  EXPECT_FALSE(Accepts(grammar, R"({"\u0061":"x"})"));
  EXPECT_FALSE(Accepts(grammar, R"({"b\/":"x"})"));
}

TEST(Grammar, EqualWaysOnAreEqualStates) {
  // So that masks are found again.
  const Grammar grammar = Compile(R"({"items": {"type": ["string", "integer", "null"]}})");
  const auto state = StateAfter(grammar, "[\"abc\"");
  ASSERT_TRUE(state.has_value());
  EXPECT_EQ(*state, *StateAfter(grammar, "[\n 12,null,\"abc\", \"\\u00e9\""));
  EXPECT_EQ(*StateAfter(grammar, "[\""), *StateAfter(grammar, "[\"long \xC3\xA9 text"));
  EXPECT_FALSE(*state == *StateAfter(grammar, "["));
}

TEST(Grammar, ReadingsDoNotMultiply) {
  const Grammar grammar = Compile(R"({"$defs": {"v": {"anyOf": [
      {"type": "null"}, {"properties": {"a": {"$ref": "#/$defs/v"}, "x": {"type": "null"}}},
      {"properties": {"a": {"$ref": "#/$defs/v"}, "y": {"type": "null"}}}]}}, "$ref": "#/$defs/v"})");
  std::string open;
  std::string close;
  for (int level = 0; level < kMaxGrammarDepth; ++level) {
    open += "{\"a\":";
    close = std::string(level % 2 == 0 ? ",\"x\":null}" : ",\"y\":null}") + close;
  }
  EXPECT_TRUE(Accepts(grammar, open + "null" + close));
  EXPECT_FALSE(StateAfter(grammar, open + "null,\"x\":null,\"y\"").has_value());
}

TEST(Grammar, FreeCharactersAreWhatAStringStillTakes) {
  const Grammar grammar = Compile(R"({"properties": {"a": {"maxLength": 5}, "b": {"type": "string"},
      "c": {"const": "word"}}})");
  const auto free = [&](const std::string& text) {
    return grammar.FreeCharacters(*StateAfter(grammar, text));
  };
  EXPECT_EQ(free("{\"a\":\""), 5u);
  EXPECT_EQ(free("{\"a\":\"\xC3\xA9xy"), 2u);
  EXPECT_EQ(free("{\"a\":\"12345"), std::nullopt);
  EXPECT_EQ(free("{\"b\":\"12345"), kNoMaximum);
  EXPECT_EQ(free("{\"b\":\"\\"), std::nullopt);
  EXPECT_EQ(free("{\"b\":\"\xC3"), std::nullopt);
  EXPECT_EQ(free("{\"c\":\"wo"), std::nullopt);
  EXPECT_EQ(free("{\""), std::nullopt);
  const Grammar any = AnyJsonObject();
  EXPECT_EQ(any.FreeCharacters(*StateAfter(any, "{\"ke")), kNoMaximum);
}

}  // namespace
}  // namespace clamor
