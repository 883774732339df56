#include "retrieval/trie.h"

#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/retrieval/naive_store.h"
#include "tests/retrieval/packed_tokens.h"
#include "tests/retrieval/test_support.h"

namespace clamor::retrieval {
namespace {

std::vector<Trie::Node> Build(const std::vector<Tokens>& continuations, int max_nodes, int max_depth) {
  Tokens all = {kEndMark};
  for (const Tokens& tokens : continuations) all.insert(all.end(), tokens.begin(), tokens.end());
  const PackedTokens packed(all);
  std::vector<TokenRun> runs;
  uint32_t begin = 1;
  for (const Tokens& tokens : continuations) {
    const auto size = static_cast<uint32_t>(tokens.size());
    runs.emplace_back(packed.text(), begin, size, packed.text().Window(begin, size).data());
    begin += size;
  }
  return BuildTrie(std::move(runs), max_nodes, max_depth);
}

TEST(TrieTest, CountsSharedPrefixesBestFirst) {
  EXPECT_THAT(Build({{7, 8}, {7, 9}, {5}, {7, 9, 1}}, 10, 8),
              testing::ElementsAre(Trie::Node{7, -1, 3}, Trie::Node{9, 0, 2}, Trie::Node{5, -1, 1},
                                   Trie::Node{8, 0, 1}, Trie::Node{1, 1, 1}));
}

TEST(TrieTest, EmptyContinuationsMakeNoNodes) {
  EXPECT_TRUE(Build({}, 4, 4).empty());
  EXPECT_TRUE(Build({{}, {}}, 4, 4).empty());
}

TEST(TrieTest, NothingGoesOnBehindAnEndMark) {
  EXPECT_THAT(Build({{7, kEndMark, 3}, {7, 8}, {kEndMark}}, 10, 8),
              testing::ElementsAre(Trie::Node{7, -1, 2}, Trie::Node{8, 0, 1}));
}

TEST(TrieTest, EqualsTheTrieOfAllPaths) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 3000 / kSlow; ++round) {
    std::vector<Tokens> continuations(random() % 30);
    for (Tokens& tokens : continuations) tokens = RandomTokens(random, random() % 7, 1 + random() % 4);
    const int max_nodes = 1 + random() % 30, max_depth = 1 + random() % 7;
    ASSERT_EQ(Build(continuations, max_nodes, max_depth), NaiveTrie(continuations, max_nodes, max_depth));
  }
}

}  // namespace
}  // namespace clamor::retrieval
