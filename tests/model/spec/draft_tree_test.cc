// Verification against a walk that tries every path.
#include "model/spec/draft_tree.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace clamor {
namespace {

// The target token is a function of the tokens on the path alone, as it is in a model.
using Target = std::function<int32_t(const std::vector<int32_t>& path)>;

std::vector<int32_t> PathTokens(const DraftTree& tree, int32_t node) {
  std::vector<int32_t> tokens;
  for (int32_t i = node; i >= 0; i = tree.nodes[i].parent) tokens.push_back(tree.nodes[i].token);
  return {tokens.rbegin(), tokens.rend()};
}

// For each node in turn: are all its ancestors and itself what the model said? The first of the deepest wins.
Accepted NaiveVerify(const DraftTree& tree, const Target& target) {
  int32_t best = 0;
  for (int32_t node = 1; node < static_cast<int32_t>(tree.nodes.size()); ++node) {
    const std::vector<int32_t> tokens = PathTokens(tree, node);
    bool right = true;
    for (size_t i = 1; i < tokens.size() && right; ++i) {
      right = target({tokens.begin(), tokens.begin() + static_cast<int64_t>(i)}) == tokens[i];
    }
    if (right && tree.nodes[node].depth > tree.nodes[best].depth) best = node;
  }
  Accepted accepted{.next = target(PathTokens(tree, best))};
  for (int32_t i = best; i > 0; i = tree.nodes[i].parent) accepted.path.insert(accepted.path.begin(), i);
  return accepted;
}

Accepted Verified(const DraftTree& tree, const Target& target) {
  Accepted accepted{.path = {7, 7, 7}, .next = 7};  // whatever was there before
  std::vector<int> calls(tree.nodes.size(), 0);
  Verify(
      tree,
      [&](int32_t node) {
        EXPECT_EQ(++calls[node], 1) << "node " << node << " asked twice";
        return target(PathTokens(tree, node));
      },
      accepted);
  return accepted;
}

void Compare(const DraftTree& tree, const Target& target) {
  ASSERT_TRUE(tree.CheckIntegrity().ok()) << tree.CheckIntegrity();
  const Accepted fast = Verified(tree, target), slow = NaiveVerify(tree, target);
  ASSERT_EQ(fast.path, slow.path);
  ASSERT_EQ(fast.next, slow.next);
  std::vector<int32_t> path = {7, 7, 7};
  for (int32_t node = 0; node < static_cast<int32_t>(tree.nodes.size()); ++node) {
    const std::vector<int32_t> tokens = PathTokens(tree, node);
    tree.PathTo(node, path);
    ASSERT_EQ(path, std::vector<int32_t>(tokens.begin() + 1, tokens.end()));
  }
}

int32_t Hash(const std::vector<int32_t>& path, int32_t modulus) {
  uint32_t h = 17;
  for (const int32_t token : path) h = h * 31 + static_cast<uint32_t>(token) + 1;
  return static_cast<int32_t>((h >> 3) % static_cast<uint32_t>(modulus));
}

// All trees of up to five nodes over two tokens: every parent, every token, equal siblings included.
TEST(Verify, AllSmallTrees) {
  const Target targets[] = {
      [](const auto&) { return 0; },
      [](const auto& path) { return 1 - path.back(); },
      [](const auto& path) { return static_cast<int32_t>(path.size() % 2); },
      [](const auto& path) { return Hash(path, 2); },
  };
  const std::function<void(DraftTree, int)> grow = [&](DraftTree tree, int left) {
    for (const Target& target : targets) {
      Compare(tree, target);
      if (testing::Test::HasFatalFailure()) return;
    }
    if (left == 0) return;
    for (int32_t parent = 0; parent < static_cast<int32_t>(tree.nodes.size()); ++parent) {
      for (const int32_t token : {0, 1}) {
        DraftTree larger = tree;
        EXPECT_EQ(larger.Add(token, parent, Source::kContext), tree.drafted() + 1);
        grow(larger, left - 1);
      }
    }
  };
  for (const int32_t root : {0, 1}) {
    DraftTree tree;
    tree.Reset(root);
    grow(tree, 5);
  }
}

TEST(Verify, RandomTrees) {
  std::mt19937 random(1);
  for (int round = 0; round < 3000; ++round) {
    const int32_t alphabet = 1 + static_cast<int32_t>(random() % 4);
    DraftTree tree;
    tree.Reset(static_cast<int32_t>(random() % alphabet));
    for (int32_t i = 0, n = static_cast<int32_t>(random() % 80); i < n; ++i) {
      const int32_t parent = random() % 3 ? i - static_cast<int32_t>(random() % std::min(i + 1, 4))
                                          : static_cast<int32_t>(random() % (i + 1));
      const int32_t right = Hash(PathTokens(tree, parent), alphabet);
      tree.Add(random() % 2 ? right : static_cast<int32_t>(random() % alphabet), parent, Source::kJacobi);
    }
    Compare(tree, [alphabet](const auto& path) { return Hash(path, alphabet); });
    ASSERT_FALSE(HasFatalFailure()) << "round " << round;
  }
}

// The released code pads short paths with the root, so "A", "A B" with the model saying B, then A, counts the
// padding as a third token. Nothing was drafted there: it is the model's own next token.
TEST(Verify, APathIsNotPaddedWithTheRoot) {
  DraftTree tree;
  tree.Reset(/*A*/ 1);
  tree.Add(/*B*/ 2, 0, Source::kJacobi);
  const Accepted accepted = Verified(tree, [](const auto& path) { return path.back() == 1 ? 2 : 1; });
  EXPECT_THAT(accepted.path, testing::ElementsAre(1));
  EXPECT_EQ(accepted.next, 1);
}

TEST(Verify, AmongEqualSiblingsTheDeepestPathWinsThenTheFirst) {
  DraftTree tree;
  tree.Reset(0);
  const int32_t first = tree.Add(5, 0, Source::kContext);
  const int32_t second = tree.Add(5, 0, Source::kJacobi);
  const auto fives = [](const auto&) { return 5; };
  EXPECT_THAT(Verified(tree, fives).path, testing::ElementsAre(first));
  const int32_t below = tree.Add(5, second, Source::kJacobi);
  EXPECT_THAT(Verified(tree, fives).path, testing::ElementsAre(second, below));
}

TEST(Verify, LongChainOfEqualTokens) {
  DraftTree tree;
  tree.Reset(3);
  for (int32_t i = 0; i < 128; ++i) tree.Add(3, i, Source::kContext);
  const Accepted accepted = Verified(tree, [](const auto&) { return 3; });
  EXPECT_EQ(accepted.path.size(), 128u);
  EXPECT_EQ(accepted.next, 3);
}

TEST(DraftTree, CheckIntegrityNamesTheBrokenNode) {
  using testing::HasSubstr;
  DraftTree tree;
  EXPECT_THAT(tree.CheckIntegrity().message(), HasSubstr("no root"));
  tree.Reset(1);
  tree.Add(2, 0, Source::kContext);
  tree.Add(3, 1, Source::kContext);
  EXPECT_TRUE(tree.CheckIntegrity().ok());
  EXPECT_EQ(tree.drafted(), 2);
  for (const int32_t parent : {-1, 2, 3}) {
    DraftTree broken = tree;
    broken.nodes[2].parent = parent;
    EXPECT_THAT(broken.CheckIntegrity().message(), HasSubstr(std::to_string(parent)));
  }
  DraftTree broken = tree;
  broken.nodes[2].depth = 5;
  EXPECT_THAT(broken.CheckIntegrity().message(), HasSubstr("node 2 has depth 5"));
  broken = tree;
  broken.nodes[0].parent = 0;
  EXPECT_THAT(broken.CheckIntegrity().message(), HasSubstr("node 0"));
}

}  // namespace
}  // namespace clamor
