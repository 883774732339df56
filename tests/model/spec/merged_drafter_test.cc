// What must hold of every tree whatever the sources say, and that each source is heard.
#include "model/spec/merged_drafter.h"

#include <algorithm>
#include <climits>
#include <cstdint>
#include <limits>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/model/spec/fake_model.h"

namespace clamor {
namespace {

using Answer = ContinuationSource::Answer;
using Node = ContinuationTrie::Node;

constexpr int32_t kVocab = 60;

// The nodes that Draft kept for the sake of the next trail: they stand at the end, with no survival.
int32_t TailBegin(const DraftTree& tree) {
  int32_t begin = static_cast<int32_t>(tree.nodes.size());
  while (begin > 1 && tree.nodes[begin - 1].survival == 0) --begin;
  return begin;
}

void CheckTree(const DraftTree& tree, int32_t root_token, int32_t max_nodes) {
  ASSERT_TRUE(tree.CheckIntegrity().ok()) << tree.CheckIntegrity();
  ASSERT_EQ(tree.nodes[0].token, root_token);
  ASSERT_LE(tree.drafted(), max_nodes);
  const int32_t tail = TailBegin(tree);
  std::set<std::pair<int32_t, int32_t>> siblings;
  int32_t deepest = 0;
  for (int32_t i = 1; i < static_cast<int32_t>(tree.nodes.size()); ++i) {
    const DraftNode& node = tree.nodes[i];
    ASSERT_TRUE(node.token >= 0 && node.token < kVocab) << "token " << node.token;
    ASSERT_TRUE(siblings.emplace(node.parent, node.token).second) << "two siblings with token " << node.token;
    ASSERT_LE(node.depth, MergedDrafter::kMaxDepth);
    ASSERT_NE(node.source, Source::kNone);
    if (i < tail) {
      ASSERT_LE(node.survival, tree.nodes[i - 1].survival) << "node " << i;
      ASSERT_GT(node.survival, 0);
    }
    deepest = std::max(deepest, node.depth);
  }
  // Something to reject is always there, so that the next step is not blind.
  ASSERT_GE(deepest, std::min(5, max_nodes / 3));
  // The children of one node cannot all together be more likely than their parent.
  std::vector<double> children(tree.nodes.size(), 0);
  for (int32_t i = 1; i < tail; ++i) children[tree.nodes[i].parent] += tree.nodes[i].survival;
  for (size_t i = 0; i < tree.nodes.size(); ++i) ASSERT_LE(children[i], tree.nodes[i].survival * 0.999);
}

bool SameTree(const DraftTree& a, const DraftTree& b, int32_t nodes) {
  for (int32_t i = 0; i < nodes; ++i) {
    if (a.nodes[i].token != b.nodes[i].token || a.nodes[i].parent != b.nodes[i].parent) return false;
  }
  return true;
}

// No honest store would say this.
Answer Hostile(int64_t position, std::mt19937& random) {
  constexpr int32_t kOdd[] = {-1, -2, -3, INT32_MIN, INT32_MAX, kVocab, kVocab - 1, 0};
  Answer answer{.position = position};
  switch (random() % 8) {
    case 0:
      answer.position -= static_cast<int64_t>(random() % 6);
      break;  // stale
    case 1:
      answer.position += 1 + static_cast<int64_t>(random() % 6);
      break;  // from the future
    case 2:
      answer.position = random() % 2 ? INT64_MIN : INT64_MAX;
      break;
    default:
      break;
  }
  answer.trie.match_length = random() % 3 ? static_cast<int32_t>(random() % 20) : kOdd[random() % 8];
  answer.trie.occurrences = random() % 3 ? static_cast<uint32_t>(random() % 10) : UINT32_MAX;
  const bool broken = random() % 3 == 0;
  for (int32_t i = 0, n = static_cast<int32_t>(random() % 50); i < n; ++i) {
    Node node{.token = static_cast<int32_t>(random() % 4),  // few, so that children are named twice
              .parent = static_cast<int32_t>(random() % (i + 1)) - 1,
              .count = random() % 4 ? static_cast<uint32_t>(random() % 9) : UINT32_MAX};
    if (broken && random() % 10 == 0) node.token = kOdd[random() % 8];
    if (broken && random() % 10 == 0) node.parent = random() % 2 ? i : kOdd[random() % 8];
    answer.trie.nodes.push_back(node);
  }
  return answer;
}

struct Outcome {
  int64_t tokens = 0, forwards = 0;
  std::array<int64_t, kSources> accepted{};
};

// Decodes with a made-up model and checks every tree. Targets are the model's best tokens, or any of its ten
// if `sampled`.
Outcome Decode(const FakeModel& model, std::vector<int32_t> text, DraftKnowledge& knowledge, int steps,
               int32_t max_nodes, std::mt19937& random, bool hostile, bool sampled) {
  Outcome run;
  MergedDrafter drafter(&knowledge, kVocab, {.seed = random()});
  drafter.Extend(text);
  DraftTree tree;
  for (int step = 0; step < steps && !testing::Test::HasFatalFailure(); ++step) {
    if (hostile && random() % 2 == 0) drafter.Offer(Hostile(static_cast<int64_t>(text.size()), random));
    const int32_t nodes = max_nodes >= 0 ? max_nodes : static_cast<int32_t>(random() % 129);
    drafter.Draft(nodes, tree);
    CheckTree(tree, text.back(), nodes);
    if (random() % 2 == 0) {
      const DraftTree before = tree;
      const int32_t fewer = static_cast<int32_t>(random() % (nodes + 1));
      drafter.Trim(fewer, tree);
      CheckTree(tree, text.back(), fewer);
      EXPECT_EQ(tree.drafted(), std::min(fewer, before.drafted()));
      EXPECT_TRUE(SameTree(tree, before, std::min(TailBegin(tree), TailBegin(before))))
          << "the best nodes stay";
    }
    const FakeLogits logits(model, text, tree);
    Accepted accepted;
    Verify(
        tree, [&](int32_t node) { return logits.rows()[node][sampled ? (text.size() + node) % 10 : 0]; },
        accepted);
    drafter.Observe(tree, logits.view(), accepted);
    std::vector<int32_t> emitted;
    for (const int32_t node : accepted.path) {
      emitted.push_back(tree.nodes[node].token);
      ++run.accepted[static_cast<size_t>(tree.nodes[node].source)];
    }
    emitted.push_back(accepted.next);
    drafter.Extend(emitted);
    text.insert(text.end(), emitted.begin(), emitted.end());
    run.tokens += static_cast<int64_t>(emitted.size());
    ++run.forwards;
  }
  return run;
}

TEST(MergedDrafter, EveryTreeKeepsTheRules) {
  std::mt19937 random(1);
  for (int round = 0; round < 40; ++round) {
    DraftKnowledge knowledge;  // two runs share what was learned
    for (int again = 0; again < 2; ++again) {
      const FakeModel model{.vocab = kVocab, .order = 1 + round % 3, .salt = static_cast<uint32_t>(round)};
      std::vector<int32_t> prompt(1 + random() % 40);
      for (int32_t& token : prompt) token = static_cast<int32_t>(random() % kVocab);
      Decode(model, prompt, knowledge, 25, -1, random, /*hostile=*/round % 2 == 1,
             /*sampled=*/round % 4 >= 2);
      ASSERT_FALSE(HasFatalFailure()) << "round " << round;
    }
  }
}

TEST(MergedDrafter, NoNodesIsTheRootAlone) {
  DraftKnowledge knowledge;
  MergedDrafter drafter(&knowledge, kVocab, {.seed = 1});
  drafter.Extend(std::vector<int32_t>{1, 2, 1, 2});
  DraftTree tree;
  drafter.Draft(0, tree);
  EXPECT_EQ(tree.drafted(), 0);
  drafter.Draft(20, tree);
  drafter.Trim(0, tree);
  EXPECT_EQ(tree.drafted(), 0);
}

// A model whose text is learnable: drafting must pay, more so with more nodes, and with what another run has
// learned.
TEST(MergedDrafter, LearnsFromTextTrailAndOtherSequences) {
  std::mt19937 random(1);
  const FakeModel model{.vocab = kVocab, .order = 1, .salt = 5};
  DraftKnowledge knowledge;
  const std::vector<int32_t> prompt = {3, 1, 4, 1, 5};
  const Outcome first = Decode(model, prompt, knowledge, 40, 32, random, false, false);
  const Outcome second = Decode(model, prompt, knowledge, 40, 32, random, false, false);
  const Outcome hostile = Decode(model, prompt, knowledge, 40, 32, random, true, false);
  EXPECT_GT(first.tokens, 4 * first.forwards);
  EXPECT_GE(second.tokens, first.tokens);
  EXPECT_GT(hostile.tokens, 3 * hostile.forwards) << "lies cost speed, not all of it";
}

std::vector<int32_t> Children(const DraftTree& tree, int32_t node) {
  std::vector<int32_t> tokens;
  for (const DraftNode& n : tree.nodes) {
    if (n.parent == node) tokens.push_back(n.token);
  }
  return tokens;
}

// The first node at the end of `path` below the root; -1: none.
int32_t Find(const DraftTree& tree, const std::vector<int32_t>& path) {
  int32_t at = 0;
  for (const int32_t token : path) {
    int32_t next = -1;
    for (int32_t i = at + 1; i < static_cast<int32_t>(tree.nodes.size()); ++i) {
      if (tree.nodes[i].parent == at && tree.nodes[i].token == token) next = i;
    }
    if (next < 0) return -1;
    at = next;
  }
  return at;
}

TEST(MergedDrafter, ContextIsFollowed) {
  DraftKnowledge knowledge;
  MergedDrafter drafter(&knowledge, kVocab, {.seed = 1});
  drafter.Extend(std::vector<int32_t>{1, 2, 3, 4, 5, 6, 7, 1, 2, 3});
  DraftTree tree;
  drafter.Draft(8, tree);
  const int32_t node = Find(tree, {4, 5, 6});
  ASSERT_GT(node, 0);
  EXPECT_EQ(tree.nodes[node].source, Source::kContext);
}

Answer Chain(int64_t position, const std::vector<int32_t>& tokens) {
  Answer answer{.position = position, .trie = {.match_length = 9, .occurrences = 4}};
  for (size_t i = 0; i < tokens.size(); ++i) {
    answer.trie.nodes.push_back({.token = tokens[i], .parent = static_cast<int32_t>(i) - 1, .count = 4});
  }
  return answer;
}

TEST(MergedDrafter, StoreIsFollowedAndItsCursorGoesOnWithTheText) {
  DraftKnowledge knowledge;
  MergedDrafter drafter(&knowledge, kVocab, {.seed = 1});
  drafter.Extend(std::vector<int32_t>{1, 2, 3});
  EXPECT_TRUE(drafter.WantsAnswer());
  drafter.Offer(Chain(3, {10, 11, 12, 13, 14}));
  EXPECT_FALSE(drafter.WantsAnswer());
  DraftTree tree;
  drafter.Draft(8, tree);
  const int32_t node = Find(tree, {10, 11, 12});
  ASSERT_GT(node, 0);
  EXPECT_EQ(tree.nodes[node].source, Source::kStore);

  drafter.Extend(std::vector<int32_t>{10, 11});  // as said: goes on from there
  EXPECT_FALSE(drafter.WantsAnswer());
  drafter.Draft(8, tree);
  EXPECT_GT(Find(tree, {12, 13, 14}), 0);

  drafter.Extend(std::vector<int32_t>{12, 13, 14});  // to its end: nothing left
  EXPECT_TRUE(drafter.WantsAnswer());

  drafter.Offer(Chain(8, {20, 21}));
  EXPECT_FALSE(drafter.WantsAnswer());
  drafter.Extend(std::vector<int32_t>{30});  // not as said: the answer is worth nothing
  EXPECT_TRUE(drafter.WantsAnswer());
  drafter.Draft(8, tree);
  EXPECT_EQ(Find(tree, {21}), -1);
}

TEST(MergedDrafter, LateAnswersAreCaughtUpWith) {
  DraftKnowledge knowledge;
  MergedDrafter drafter(&knowledge, kVocab, {.seed = 1});
  drafter.Extend(std::vector<int32_t>{1, 2, 3, 10, 11});
  drafter.Offer(Chain(3, {10, 11, 12, 13}));  // asked two tokens ago
  DraftTree tree;
  drafter.Draft(4, tree);
  EXPECT_GT(Find(tree, {12, 13}), 0);
  drafter.Offer(Chain(4, {99 % kVocab, 12}));  // the text went another way meanwhile
  EXPECT_TRUE(drafter.WantsAnswer());
}

TEST(MergedDrafter, MalformedAnswersLeaveTheOldOneInPlace) {
  DraftKnowledge knowledge;
  MergedDrafter drafter(&knowledge, kVocab, {.seed = 1});
  drafter.Extend(std::vector<int32_t>{1, 2, 3});
  drafter.Offer(Chain(3, {10, 11, 12}));
  Answer bad_parent = Chain(3, {20, 21}), self_parent = bad_parent, low_token = bad_parent,
         high_token = bad_parent;
  bad_parent.trie.nodes[1].parent = -2;
  self_parent.trie.nodes[1].parent = 1;
  low_token.trie.nodes[1].token = -1;
  high_token.trie.nodes[1].token = kVocab;
  const Answer huge = Chain(3, std::vector<int32_t>(MergedDrafter::kMaxTrieNodes + 1, 20));
  for (const Answer& answer : {bad_parent, self_parent, low_token, high_token, huge, Chain(4, {20}),
                               Chain(-1, {20}), Chain(3, {})}) {
    drafter.Offer(answer);
    DraftTree tree;
    drafter.Draft(4, tree);
    EXPECT_GT(Find(tree, {10, 11}), 0);
    EXPECT_EQ(Find(tree, {20}), -1);
  }
}

TEST(MergedDrafter, AdjacencyComesFromOtherSequencesOfTheTenant) {
  DraftKnowledge knowledge;
  const std::vector<int32_t> tokens = {40, 41, 42};
  const std::vector<float> logs = {-0.1f, -3, -4};
  knowledge.adjacency.Observe(7, tokens, logs);
  MergedDrafter drafter(&knowledge, kVocab, {.seed = 1});
  drafter.Extend(std::vector<int32_t>{7});
  DraftTree tree;
  drafter.Draft(2, tree);  // too few for a tail
  EXPECT_THAT(Children(tree, 0), testing::Contains(40));
  EXPECT_EQ(tree.nodes[1].source, Source::kAdjacency);
}

// Means are learned beside what the same source proposes, and blind to what others do.
TEST(MergedDrafter, OnlySourcesThatContradictEachOtherTakeFromEachOther) {
  DraftKnowledge knowledge;
  const std::vector<int32_t> tokens = {40, 41};
  const std::vector<float> logs = {-0.9f, -1.2f};
  knowledge.adjacency.Observe(7, tokens, logs);
  MergedDrafter drafter(&knowledge, kVocab, {.seed = 1});
  drafter.Extend(std::vector<int32_t>{7});
  const auto survival = [&](int32_t token) {
    DraftTree tree;
    drafter.Draft(40, tree);
    return tree.nodes[Find(tree, {token})].survival;
  };
  const Calibration fresh;
  const float first = fresh.Mean(Calibration::Adjacency(0, logs[0], 0));
  const float second = fresh.Mean(Calibration::Adjacency(1, logs[1], 0));
  EXPECT_FLOAT_EQ(survival(40), first);
  EXPECT_FLOAT_EQ(survival(41), second);

  drafter.Offer(Chain(1, {20}));
  const float store = fresh.Mean(Calibration::Store(1, 4, 4, 0));  // a text of one token
  ASSERT_GT(store, first);
  EXPECT_FLOAT_EQ(survival(20), store);
  EXPECT_FLOAT_EQ(survival(40), first * (1 - store));
  EXPECT_FLOAT_EQ(survival(41), second * (1 - store));
}

// What the model said behind the rejected chain is the next tree's trail, row by row.
TEST(MergedDrafter, TheRejectedTailIsTheNextTrail) {
  const FakeModel model{.vocab = kVocab, .order = 3, .salt = 1};
  DraftKnowledge knowledge;
  MergedDrafter drafter(&knowledge, kVocab, {.seed = 1});
  const std::vector<int32_t> text = {1, 2, 3};
  drafter.Extend(text);
  DraftTree tree;
  drafter.Draft(15, tree);  // nothing is known: a chain of five tokens of noise
  ASSERT_EQ(tree.drafted(), 5);
  const FakeLogits logits(model, text, tree);
  drafter.Observe(tree, logits.view(), {.next = 50});
  drafter.Extend(std::vector<int32_t>{50});
  drafter.Draft(60, tree);
  const auto first = Children(tree, 0);
  for (int rank = 0; rank < 3; ++rank) EXPECT_THAT(first, testing::Contains(logits.rows()[1][rank]));
  const int32_t second = Find(tree, {logits.rows()[1][0], logits.rows()[2][0]});
  ASSERT_GT(second, 0);
  EXPECT_EQ(tree.nodes[second].source, Source::kJacobi);
}

// A model of broken weights says nothing but NaN: TopK then names no token at all.
TEST(MergedDrafter, RowsWithoutABestTokenAreNoTrail) {
  DraftKnowledge knowledge;
  MergedDrafter drafter(&knowledge, kVocab, {.seed = 1});
  drafter.Extend(std::vector<int32_t>{1, 2, 3});
  const std::vector<int32_t> ids(129 * Drafter::kTopK, -1);
  const std::vector<float> values(129 * Drafter::kTopK, -std::numeric_limits<float>::infinity());
  const std::vector<float> sums(129, std::numeric_limits<float>::quiet_NaN());
  const NodeLogits nothing{
      .k = Drafter::kTopK, .ids = ids.data(), .values = values.data(), .log_sum_exp = sums.data()};
  DraftTree tree;
  for (int step = 0; step < 10; ++step) {
    drafter.Draft(40, tree);
    CheckTree(tree, step == 0 ? 3 : 0, 40);
    drafter.Observe(tree, nothing, {.next = 0});
    drafter.Extend(std::vector<int32_t>{0});
  }
}

// The draw's noise is known beforehand: of tokens about as likely as each other, the one that will win is
// guessed.
TEST(MergedDrafter, WhereTokensAreDrawnTheNoiseOfTheDrawRanksTheGuesses) {
  const std::vector<int32_t> tokens = {10, 11, 12, 13, 14, 15, 16, 17};
  const std::vector<float> log_probabilities = {-1.9f, -2.0f, -2.0f, -2.1f, -2.1f, -2.2f, -2.2f, -2.3f};
  int changed = 0;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    DraftKnowledge knowledge;
    knowledge.adjacency.Observe(5, tokens, log_probabilities);
    MergedDrafter drafter(&knowledge, kVocab, {.temperature = 0.7f, .seed = seed});
    drafter.Extend(std::vector<int32_t>{3, 4, 5});
    DraftTree tree;
    drafter.Draft(1, tree);
    ASSERT_EQ(tree.drafted(), 1);
    size_t best = 0;
    const auto value = [&](size_t i) {
      return log_probabilities[i] / 0.7f + GumbelNoise(seed, 3, tokens[i]);
    };
    for (size_t i = 1; i < tokens.size(); ++i) {
      if (value(i) > value(best)) best = i;
    }
    ASSERT_EQ(tree.nodes[1].token, tokens[best]) << seed;
    changed += best != 0;
  }
  EXPECT_GT(changed, 100) << "without the noise it would always be the first";
}

TEST(MergedDrafter, OnlyTheSourcesAskedForPropose) {
  DraftKnowledge knowledge;
  knowledge.adjacency.Observe(5, std::vector<int32_t>{10}, std::vector<float>{-0.1f});
  for (const Source source : {Source::kContext, Source::kAdjacency}) {
    MergedDrafter drafter(&knowledge, kVocab, {.seed = 1}, 1u << static_cast<int>(source));
    drafter.Extend(std::vector<int32_t>{5, 7, 8, 5});
    DraftTree tree;
    drafter.Draft(2, tree);
    ASSERT_GT(tree.drafted(), 0);
    for (int32_t i = 1; i <= tree.drafted(); ++i) EXPECT_EQ(tree.nodes[i].source, source);
    EXPECT_EQ(tree.nodes[1].token, source == Source::kContext ? 7 : 10);
  }
}

}  // namespace
}  // namespace clamor
