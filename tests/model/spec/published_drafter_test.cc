// Against a literal transcription of the published algorithm, over whole runs with a model made up for the
// purpose.
#include "model/spec/published_drafter.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/spec/noise.h"
#include "tests/model/spec/fake_model.h"

namespace clamor {
namespace {

using Path = std::vector<int>;
constexpr int K = 10, kDepth = 5;

// Medusa's shape, as the authors list it.
const std::vector<Path> kShape = {
    {0},          {0, 0},    {1},       {0, 1},    {2},       {0, 0, 0}, {1, 0},       {0, 2},    {3},
    {0, 3},       {4},       {0, 4},    {2, 0},    {0, 5},    {0, 0, 1}, {5},          {0, 6},    {6},
    {0, 7},       {0, 1, 0}, {1, 1},    {7},       {0, 8},    {0, 0, 2}, {3, 0},       {0, 9},    {8},
    {9},          {1, 0, 0}, {0, 2, 0}, {1, 2},    {0, 0, 3}, {4, 0},    {2, 1},       {0, 0, 4}, {0, 0, 5},
    {0, 0, 0, 0}, {0, 1, 1}, {0, 0, 6}, {0, 3, 0}, {5, 0},    {1, 3},    {0, 0, 7},    {0, 0, 8}, {0, 0, 9},
    {6, 0},       {0, 4, 0}, {1, 4},    {7, 0},    {0, 1, 2}, {2, 0, 0}, {3, 1},       {2, 2},    {8, 0},
    {0, 5, 0},    {1, 5},    {1, 0, 1}, {0, 2, 1}, {9, 0},    {0, 6, 0}, {0, 0, 0, 1}, {1, 6},    {0, 7, 0}};

// The published decoder, batch 1, greedy, every search path ending where it ends.
class Transcription {
 public:
  Transcription(const std::vector<int32_t>& prompt, uint64_t seed)
      : text_(prompt.begin(), prompt.end() - 1), root_(prompt.back()), random_(seed) {
    nodes_.push_back({});
    for (int d = 1; d <= kDepth; ++d) nodes_.push_back(Path(d, K));
    nodes_.insert(nodes_.end(), kShape.begin(), kShape.end());
    for (size_t i = 0; i < nodes_.size(); ++i) {
      const Path above(nodes_[i].begin(), nodes_[i].empty() ? nodes_[i].end() : nodes_[i].end() - 1);
      parents_.push_back(
          i == 0 ? -1 : static_cast<int>(std::find(nodes_.begin(), nodes_.end(), above) - nodes_.begin()));
    }
    for (size_t i = 1; i < nodes_.size(); ++i) {
      if (std::count(parents_.begin(), parents_.end(), static_cast<int>(i)) > 0) continue;
      Path path;
      for (int n = static_cast<int>(i); n >= 0; n = parents_[n]) path.insert(path.begin(), n);
      leaf_paths_.push_back(path);
    }
    for (auto& row : table_) row.fill(-1);
  }

  // The tokens of the tree.
  std::vector<int32_t> Draft() {
    for (auto& row : table_) {
      for (int32_t& token : row) {
        if (token < 0) token = NoiseToken(text_, random_);
      }
    }
    ids_ = {root_};
    for (size_t i = 1; i < nodes_.size(); ++i) ids_.push_back(table_[nodes_[i].size() - 1][nodes_[i].back()]);
    return ids_;
  }

  // `top`: the ten best tokens after each node. Returns what was emitted: the accepted drafts and the next
  // root.
  std::vector<int32_t> Verify(const std::vector<std::vector<int32_t>>& top) {
    int best = -1, most = -1;
    for (size_t i = 0; i < leaf_paths_.size(); ++i) {
      const Path& path = leaf_paths_[i];
      int reward = 0;
      while (reward + 1 < static_cast<int>(path.size()) && ids_[path[reward + 1]] == top[path[reward]][0])
        ++reward;
      if (reward > most) {
        most = reward;
        best = static_cast<int>(i);
      }
    }
    const Path& path = leaf_paths_[best];
    const int a = 1 + most;
    std::vector<int32_t> emitted;
    for (int i = 0; i < a; ++i) {
      text_.push_back(ids_[path[i]]);
      if (i > 0) emitted.push_back(ids_[path[i]]);
    }
    root_ = top[path[a - 1]][0];
    emitted.push_back(root_);
    std::vector<int32_t> whole = text_;
    whole.push_back(root_);
    const std::vector<int32_t> got = Retrieve(whole);
    for (int d = 0; d < kDepth; ++d) {
      table_[d].fill(-1);
      if (a + d < static_cast<int>(path.size())) std::copy_n(top[path[a + d]].begin(), K, table_[d].begin());
      table_[d][K] = d < static_cast<int>(got.size()) ? got[d] : -1;
    }
    return emitted;
  }

  const std::vector<int>& parents() const { return parents_; }

 private:
  // Where up to three trailing tokens stood first, longest match first; the five tokens after. No match:
  // nothing.
  static std::vector<int32_t> Retrieve(const std::vector<int32_t>& text) {
    int best = 0, at = 0;
    const int n = static_cast<int>(text.size());
    for (int start = 0; start < n - 3; ++start) {
      int m = 0;
      while (m < 3 && text[start + 3 - 1 - m] == text[n - 1 - m]) ++m;
      if (m > best) {
        best = m;
        at = start;
      }
    }
    if (best == 0) return {};
    return {text.begin() + at + 3, text.begin() + std::min(at + 3 + 5, n)};
  }

  std::vector<Path> nodes_;
  std::vector<int> parents_;
  std::vector<Path> leaf_paths_;
  std::vector<int32_t> text_;
  int32_t root_;
  uint64_t random_;
  std::array<std::array<int32_t, K + 1>, kDepth> table_;
  std::vector<int32_t> ids_;
};

std::vector<int32_t> Tokens(const DraftTree& tree) {
  std::vector<int32_t> tokens;
  for (const DraftNode& node : tree.nodes) tokens.push_back(node.token);
  return tokens;
}

TEST(PublishedDrafter, RunsLikeTheTranscription) {
  std::mt19937 random(1);
  int64_t accepted_drafts = 0;
  for (int round = 0; round < 60; ++round) {
    const FakeModel model{.vocab = 12 + static_cast<int32_t>(random() % 50),
                          .order = 1 + static_cast<int>(random() % 2),
                          .salt = static_cast<uint32_t>(round)};
    std::vector<int32_t> prompt(2 + random() % 30);
    for (int32_t& token : prompt) token = static_cast<int32_t>(random() % static_cast<uint32_t>(model.vocab));
    const uint64_t seed = random();
    PublishedDrafter drafter(seed);
    drafter.Extend(prompt);
    Transcription published(prompt, seed);
    std::vector<int32_t> text = prompt;
    DraftTree tree;
    for (int step = 0; step < 25; ++step) {
      drafter.Draft(1, tree);  // the number does not matter
      ASSERT_TRUE(tree.CheckIntegrity().ok()) << tree.CheckIntegrity();
      ASSERT_EQ(tree.drafted(), PublishedDrafter::kNodes);
      for (size_t i = 0; i < tree.nodes.size(); ++i)
        ASSERT_EQ(tree.nodes[i].parent, published.parents()[i]) << "node " << i;
      ASSERT_EQ(Tokens(tree), published.Draft()) << "round " << round << ", step " << step;

      const FakeLogits logits(model, text, tree);
      Accepted accepted;
      Verify(
          tree, [&](int32_t node) { return logits.view().Ids(node)[0]; }, accepted);
      std::vector<int32_t> emitted;
      for (const int32_t node : accepted.path) emitted.push_back(tree.nodes[node].token);
      emitted.push_back(accepted.next);
      ASSERT_EQ(emitted, published.Verify(logits.rows())) << "round " << round << ", step " << step;
      accepted_drafts += static_cast<int64_t>(accepted.path.size());
      drafter.Observe(tree, logits.view(), accepted);
      drafter.Extend(emitted);
      text.insert(text.end(), emitted.begin(), emitted.end());
    }
  }
  EXPECT_GT(accepted_drafts, 500) << "the runs must exercise acceptance";
}

TEST(PublishedDrafter, PromptOfOneToken) {
  PublishedDrafter drafter(1);
  drafter.Extend(std::vector<int32_t>{9});
  DraftTree tree;
  drafter.Draft(68, tree);
  EXPECT_EQ(tree.drafted(), 68);
  for (const DraftNode& node : tree.nodes) EXPECT_EQ(node.token, 9);
}

// With sampling, the tail that was rejected begins where the drawn tokens left the tree, not where the best
// ones would have.
TEST(PublishedDrafter, TrailBeginsBehindTheAcceptedTokens) {
  const FakeModel model{.vocab = 40, .order = 1, .salt = 3};
  std::vector<int32_t> prompt = {1, 2, 3, 4, 5};
  PublishedDrafter drafter(1);
  drafter.Extend(prompt);
  DraftTree tree;
  drafter.Draft(68, tree);
  const FakeLogits logits(model, prompt, tree);
  // The chain of nodes 1 to 5 drawn up to its third token, whatever the model's best ones are.
  const Accepted accepted{.path = {1, 2, 3}, .next = 39};
  const std::vector<int32_t> after = logits.rows()[4], after_next = logits.rows()[5];
  std::vector<int32_t> emitted = {tree.nodes[1].token, tree.nodes[2].token, tree.nodes[3].token, 39};
  drafter.Observe(tree, logits.view(), accepted);
  drafter.Extend(emitted);
  drafter.Draft(68, tree);
  EXPECT_EQ(tree.nodes[6].token, after[0]);       // path "0"
  EXPECT_EQ(tree.nodes[7].token, after_next[0]);  // path "0 0"
  EXPECT_EQ(tree.nodes[8].token, after[1]);       // path "1"
}

TEST(PublishedDrafter, OfferChangesNothingAndTrimIsAllOrNothing) {
  PublishedDrafter drafter(1);
  drafter.Extend(std::vector<int32_t>{1, 2, 3});
  EXPECT_FALSE(drafter.WantsAnswer());
  drafter.Offer({.position = 3, .trie = {.nodes = {{.token = 5, .parent = -1, .count = 1}}}});
  DraftTree tree;
  drafter.Draft(68, tree);
  const auto before = Tokens(tree);
  drafter.Trim(68, tree);
  EXPECT_EQ(Tokens(tree), before);
  drafter.Trim(67, tree);
  ASSERT_EQ(tree.drafted(), 0);
  EXPECT_EQ(tree.nodes[0].token, 3);
  // A step that guessed nothing leaves nothing known.
  drafter.Observe(tree, {}, {.path = {}, .next = 4});
  drafter.Extend(std::vector<int32_t>{4});
  drafter.Draft(68, tree);
  EXPECT_EQ(tree.drafted(), 68);
}

}  // namespace
}  // namespace clamor
