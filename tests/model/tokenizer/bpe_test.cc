#include "model/tokenizer/bpe.h"

#include <random>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace clamor {
namespace {

using ::testing::HasSubstr;
using Merges = std::vector<std::pair<std::string, std::string>>;

// A model over some letters, with the merges given and ids in the order of first appearance.
nlohmann::json ModelOf(const std::string& letters, const Merges& merges) {
  nlohmann::json vocab;
  for (const char c : letters) vocab[std::string(1, c)] = vocab.size();
  nlohmann::json list = nlohmann::json::array();
  for (const auto& [left, right] : merges) {
    if (!vocab.contains(left + right)) vocab[left + right] = vocab.size();
    list.push_back({left, right});
  }
  return {{"type", "BPE"}, {"vocab", vocab}, {"merges", list}};
}

std::vector<int32_t> Encode(const Bpe& bpe, const std::string& piece) {
  Bpe::Scratch scratch;
  std::vector<int32_t> ids;
  bpe.Encode(piece, &scratch, &ids);
  return ids;
}

// Looks at all neighbours for the pair with the earliest merge, joins the leftmost of them, and begins again.
std::vector<int32_t> EncodeByScanning(const nlohmann::json& model, const Merges& merges,
                                      const std::string& piece) {
  std::vector<std::string> symbols;
  for (const char c : piece) symbols.emplace_back(1, c);
  while (true) {
    size_t best_rank = merges.size();
    size_t best = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      for (size_t rank = 0; rank < best_rank; ++rank) {
        if (merges[rank] == std::pair(symbols[i], symbols[i + 1])) {
          best_rank = rank;
          best = i;
        }
      }
    }
    if (best_rank == merges.size()) break;
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
  std::vector<int32_t> ids;
  for (const std::string& symbol : symbols) ids.push_back(model["vocab"][symbol]);
  return ids;
}

TEST(BpeTest, EqualsScanningOnRandomModels) {
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    const std::string letters = std::string("abcd").substr(0, 1 + random() % 4);
    std::vector<std::string> tokens;
    for (const char c : letters) tokens.emplace_back(1, c);
    Merges merges;
    std::set<std::pair<std::string, std::string>> seen;
    for (auto n = random() % 12; n > 0; --n) {
      std::pair<std::string, std::string> merge = {tokens[random() % tokens.size()],
                                                   tokens[random() % tokens.size()]};
      if (!seen.insert(merge).second) continue;
      tokens.push_back(merge.first + merge.second);
      merges.push_back(std::move(merge));
    }
    const nlohmann::json model = ModelOf(letters, merges);
    const Bpe bpe = Bpe::FromJson(model, "model").value();
    for (int piece = 0; piece < 60; ++piece) {
      std::string text;
      for (auto n = random() % 24; n > 0; --n) text += letters[random() % letters.size()];
      ASSERT_EQ(Encode(bpe, text), EncodeByScanning(model, merges, text)) << model << "\n" << text;
    }
  }
}

TEST(BpeTest, MergesMayBeWrittenAsOneString) {
  nlohmann::json model = ModelOf("abc", {{"a", "b"}, {"ab", "c"}});
  const Bpe pairs = Bpe::FromJson(model, "model").value();
  model["merges"] = {"a b", "ab c"};
  const Bpe strings = Bpe::FromJson(model, "model").value();
  EXPECT_EQ(Encode(pairs, "abcab"), Encode(strings, "abcab"));
  EXPECT_EQ(Encode(pairs, "abcab").size(), 2u);
}

TEST(BpeTest, AMillionCharactersInOnePieceTakeNoQuadraticTime) {
  Merges merges;
  for (std::string s = "a"; s.size() < 1024; s += s) merges.emplace_back(s, s);
  const Bpe bpe = Bpe::FromJson(ModelOf("a", merges), "model").value();
  EXPECT_EQ(Encode(bpe, std::string(1 << 20, 'a')).size(), 1024u);
}

TEST(BpeTest, UnknownCharacters) {
  nlohmann::json model = ModelOf("ab?", {{"a", "b"}});
  EXPECT_EQ(Encode(Bpe::FromJson(model, "").value(), "xaxxb").size(), 1u)
      << "left out, and their neighbours meet";
  model["unk_token"] = "?";
  EXPECT_EQ(Encode(Bpe::FromJson(model, "").value(), "xaxxb"), (std::vector<int32_t>{2, 0, 2, 2, 1}));
  model["fuse_unk"] = true;
  EXPECT_EQ(Encode(Bpe::FromJson(model, "").value(), "xaxxb"), (std::vector<int32_t>{2, 0, 2, 1}));
  model["byte_fallback"] = true;
  model["vocab"]["<0xC3>"] = 10;
  model["vocab"]["<0xA9>"] = 11;
  EXPECT_EQ(Encode(Bpe::FromJson(model, "").value(), "aéx"), (std::vector<int32_t>{0, 10, 11, 2}));
}

TEST(BpeTest, RefusesBrokenModels) {
  const nlohmann::json good = ModelOf("ab", {{"a", "b"}});
  const auto message = [&](const nlohmann::json& patch) {
    nlohmann::json model = good;
    model.merge_patch(patch);
    return std::string(Bpe::FromJson(model, "tokenizer.json: model").status().message());
  };
  EXPECT_EQ(message({{"type", "WordPiece"}}), "tokenizer.json: model.type: \"WordPiece\"; expected BPE");
  EXPECT_EQ(message({{"dropout", 0.1}}), "tokenizer.json: model.dropout: 0.1; expected null");
  EXPECT_THAT(message({{"end_of_word_suffix", "</w>"}}), HasSubstr("model.end_of_word_suffix: \"</w>\""));
  EXPECT_THAT(message({{"continuing_subword_prefix", "##"}}),
              HasSubstr("model.continuing_subword_prefix: \"##\""));
  EXPECT_EQ(message({{"vocab", {{"b", 0}}}}),
            "tokenizer.json: model.vocab[\"b\"]: 0; expected an id that is not that of \"a\"");
  EXPECT_EQ(message({{"vocab", {{"b", -1}}}}),
            "tokenizer.json: model.vocab[\"b\"]: -1; expected an integer in [0, 4194303]");
  for (const nlohmann::json& id :
       {nlohmann::json(1e3), nlohmann::json(4194304), nlohmann::json(UINT64_MAX), nlohmann::json("1")}) {
    EXPECT_THAT(message({{"vocab", {{"b", id}}}}), HasSubstr("expected an integer in")) << id;
  }
  EXPECT_THAT(message({{"vocab", 5}}), HasSubstr("model.vocab: 5"));
  EXPECT_EQ(message({{"merges", nlohmann::json::array({nlohmann::json::array({"a", "a"})})}}),
            "tokenizer.json: model.merges[0]: [\"a\",\"a\"]; expected two tokens of the vocabulary that make "
            "a third");
  for (const nlohmann::json& merge :
       {nlohmann::json("ab"), nlohmann::json("a b c"), nlohmann::json({"a"}), nlohmann::json(3)}) {
    EXPECT_THAT(message({{"merges", nlohmann::json::array({merge})}}), HasSubstr("model.merges[0]")) << merge;
  }
  EXPECT_THAT(message({{"unk_token", "z"}}), HasSubstr("model.unk_token: \"z\""));
  EXPECT_THAT(message({{"fuse_unk", 1}}), HasSubstr("model.fuse_unk: 1; expected true or false"));
}

}  // namespace
}  // namespace clamor
