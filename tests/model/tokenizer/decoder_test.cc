#include "model/tokenizer/decoder.h"

#include <charconv>
#include <random>

#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "gtest/gtest.h"
#include "model/tokenizer/byte_alphabet.h"
#include "model/tokenizer/utf8.h"

namespace clamor {
namespace {

using Tokens = std::vector<std::string>;

// The decoders as the tokenizers library defines them: from a list of tokens to a list of tokens.
Tokens ApplyToList(const nlohmann::json& decoder, Tokens tokens);

Tokens ByteFallback(const Tokens& tokens) {
  Tokens out;
  std::string run;
  const auto end_run = [&] {
    if (run.empty()) return;
    if (!FindInvalidUtf8(run).has_value()) {
      out.push_back(run);
    } else {
      out.insert(out.end(), run.size(), "\uFFFD");
    }
    run.clear();
  };
  for (const std::string& token : tokens) {
    int byte = 0;
    if (token.size() == 6 && token.starts_with("<0x") && token.ends_with('>') &&
        std::from_chars(&token[3], &token[5], byte, 16).ptr == &token[5]) {
      run.push_back(static_cast<char>(byte));
      continue;
    }
    end_run();
    out.push_back(token);
  }
  end_run();
  return out;
}

std::string Strip(std::string token, const std::string& content, int start, int stop) {
  for (int i = 0; i < start && token.starts_with(content); ++i) token.erase(0, content.size());
  for (int i = 0; i < stop && token.ends_with(content); ++i) token.erase(token.size() - content.size());
  return token;
}

Tokens ByteLevel(const Tokens& tokens) {
  std::string bytes;
  for (const std::string& token : tokens) {
    std::string mapped;
    bool foreign = false;
    ForEachChar(token, [&](uint32_t code, std::string_view) {
      const auto byte = kByteAlphabet.Byte(code);
      foreign |= !byte.has_value();
      mapped.push_back(static_cast<char>(byte.value_or(0)));
    });
    bytes += foreign ? token : mapped;
  }
  std::string text;
  AppendLossyUtf8(bytes, /*at_end=*/true, &text);
  return {text};
}

Tokens ApplyToList(const nlohmann::json& decoder, Tokens tokens) {
  const std::string type = decoder["type"];
  if (type == "Sequence") {
    for (const auto& part : decoder["decoders"]) tokens = ApplyToList(part, std::move(tokens));
    return tokens;
  }
  if (type == "ByteFallback") return ByteFallback(tokens);
  if (type == "ByteLevel") return ByteLevel(tokens);
  if (type == "Fuse") return {absl::StrJoin(tokens, "")};
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (type == "Replace") {
      const std::string from = decoder["pattern"]["String"], to = decoder["content"];
      tokens[i] = absl::StrReplaceAll(tokens[i], {{from, to}});
    } else if (type == "Strip") {
      tokens[i] = Strip(tokens[i], decoder["content"], decoder["start"], decoder["stop"]);
    } else {
      const std::string from = decoder["replacement"];
      const bool drop = i == 0 && decoder["prepend_scheme"] != "never";
      tokens[i] = absl::StrReplaceAll(tokens[i], {{from, drop ? "" : " "}});
    }
  }
  return tokens;
}

std::string DecodeStream(const Decoder& decoder, const Tokens& tokens) {
  std::string out;
  const auto chain = decoder.NewChain(&out);
  for (const std::string& token : tokens) chain->Push(token, /*ends_token=*/true);
  chain->Finish();
  return out;
}

TEST(DecoderTest, StagesEqualListsOnRandomChains) {
  const nlohmann::json stages[] = {
      {{"type", "ByteFallback"}},
      {{"type", "Fuse"}},
      {{"type", "ByteLevel"}},
      {{"type", "Replace"}, {"pattern", {{"String", "_"}}}, {"content", " "}},
      {{"type", "Replace"}, {"pattern", {{"String", " a"}}}, {"content", "_b_"}},
      {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}},
      {{"type", "Strip"}, {"content", " "}, {"start", 2}, {"stop", 2}},
      {{"type", "Strip"}, {"content", "_"}, {"start", 0}, {"stop", 1}},
      {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "always"}},
      {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "never"}},
  };
  const Tokens alphabet = {"a",      "_",      "__a",    " ",      "  ", "a_ ", "_ _",    "<0xE2>",
                           "<0x82>", "<0xAC>", "<0x41>", "<0xG1>", "",   "é",   "\u0120", "\u00e2\u0124",
                           "\u00ac"};
  std::mt19937 random(3);
  for (int round = 0; round < 20'000; ++round) {
    nlohmann::json sequence = {{"type", "Sequence"}, {"decoders", nlohmann::json::array()}};
    for (auto n = 1 + random() % 4; n > 0; --n)
      sequence["decoders"].push_back(stages[random() % std::size(stages)]);
    Tokens tokens;
    for (auto n = random() % 9; n > 0; --n) tokens.push_back(alphabet[random() % alphabet.size()]);
    const Decoder decoder = Decoder::FromJson(sequence, "decoder").value();
    ASSERT_EQ(DecodeStream(decoder, tokens), absl::StrJoin(ApplyToList(sequence, tokens), ""))
        << sequence << "\n"
        << nlohmann::json(tokens);
  }
}

TEST(DecoderTest, WithoutADecoderTokensAreJoinedBySpaces) {
  const Decoder decoder = Decoder::FromJson(nullptr, "decoder").value();
  EXPECT_EQ(DecodeStream(decoder, {"a", "", "b"}), "a  b");
}

TEST(DecoderTest, TextIsReleasedAsSoonAsItIsCertain) {
  const Decoder decoder =
      Decoder::FromJson({{"type", "Sequence"},
                         {"decoders",
                          {{{"type", "Replace"}, {"pattern", {{"String", "_"}}}, {"content", " "}},
                           {{"type", "ByteFallback"}},
                           {{"type", "Fuse"}},
                           {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}},
                        "decoder")
          .value();
  std::string out;
  const auto chain = decoder.NewChain(&out);
  chain->Push("_a", true);
  EXPECT_EQ(out, "a");
  chain->Push("<0xE2>", true);
  chain->Push("<0x82>", true);
  chain->Push("<0xAC>", true);
  EXPECT_EQ(out, "a") << "a fourth byte could still spoil the three";
  chain->Push("_b", true);
  EXPECT_EQ(out, "a€ b");
}

TEST(DecoderTest, ChainsThatWouldRunAwayAreRefused) {
  const nlohmann::json fuse = {{"type", "Fuse"}};
  const nlohmann::json twice = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}};
  const auto chain = [](const nlohmann::json& part, int n) {
    const nlohmann::json parts(static_cast<size_t>(n), part);
    return Decoder::FromJson({{"type", "Sequence"}, {"decoders", parts}}, "decoder").status();
  };
  EXPECT_TRUE(chain(fuse, 64).ok());
  EXPECT_EQ(chain(fuse, 65).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(chain(twice, 6).ok());
  EXPECT_EQ(chain(twice, 7).code(), absl::StatusCode::kInvalidArgument);
}

TEST(DecoderTest, RefusesWhatItDoesNotKnow) {
  const nlohmann::json refused[] = {
      {{"type", "WordPiece"}},
      {{"type", "Replace"}, {"pattern", {{"Regex", "a"}}}, {"content", ""}},
      {{"type", "Replace"}, {"pattern", {{"String", ""}}}, {"content", ""}},
      {{"type", "Strip"}, {"content", "ab"}, {"start", 1}, {"stop", 0}},
      {{"type", "Strip"}, {"content", " "}, {"start", -1}, {"stop", 0}},
      {{"type", "Metaspace"}, {"replacement", ""}},
      {{"type", "Sequence"}},
      {{"type", 5}},
      5,
  };
  for (const nlohmann::json& json : refused) {
    EXPECT_EQ(Decoder::FromJson(json, "decoder").status().code(), absl::StatusCode::kInvalidArgument) << json;
  }
}

}  // namespace
}  // namespace clamor
