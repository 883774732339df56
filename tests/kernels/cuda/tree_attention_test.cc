// Attention on tensor cores at the places where its splits begin and end: near what doubles give, and a row's
// bits the same in a tree, in a chain, as a prompt and among other rows.
#include "kernels/cuda/tree_attention.h"

#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/cuda/attention_step.h"
#include "tests/kernels/cuda/on_device.h"

namespace clamor::kernels::cuda {
namespace {

using Rows = std::vector<AttentionRowPath>;

class CudaTreeAttentionTest : public OnDevice, public testing::WithParamInterface<AttentionShape> {
 protected:
  AttentionStep NewStep(int sequences = 1) { return AttentionStep(GetParam(), tokens_, sequences, random_); }
  Rows Tree(int sequence, int prefix, int nodes, int deepest) {
    return tokens_.RandomTree(sequence, tokens_.Add(prefix), nodes, deepest);
  }
  std::vector<uint16_t> Of(const std::vector<uint16_t>& all, size_t row) {
    const size_t n = GetParam().heads * GetParam().head_dim;
    return std::vector<uint16_t>(all.begin() + row * n, all.begin() + (row + 1) * n);
  }

  AttentionTokens tokens_{GetParam(), random_};
};

TEST_P(CudaTreeAttentionTest, IsNearWhatDoublesGive) {
  for (const int prefix : {0, 15, 190, 191, 330}) {
    const Rows tree = Tree(0, prefix, 7, 4);
    AttentionStep step = NewStep();
    step.Add(tree);
    const std::vector<uint16_t> got = step.Run(stream_);
    for (size_t r = 0; r < tree.size(); ++r) {
      const std::vector<double> expected = tokens_.Attend(tree[r]);
      const std::vector<uint16_t> row = Of(got, r);
      // Values are below 1: half a unit of bf16 at 1 each for the weights, which mostly cancels, and for the
      // result.
      for (size_t i = 0; i < row.size(); ++i) {
        EXPECT_NEAR(Widen(row[i]), expected[i], 4e-3)
            << "prefix " << prefix << " row " << r << " element " << i;
      }
    }
  }
}

TEST_P(CudaTreeAttentionTest, ARowsBitsAreThoseOfAChainAndOfAPrompt) {
  for (const int prefix :
       {0, 120, 315}) {  // from 120 on, deep nodes' positions end a split that the root's do not
    const Rows tree = Tree(0, prefix, kMaxNodes, kMaxNodes - 1);
    AttentionStep step = NewStep();
    step.Add(tree);
    const std::vector<uint16_t> in_tree = step.Run(stream_);
    for (const size_t r : {size_t{0}, size_t{17}, size_t{63}}) {
      const int length = static_cast<int>(tree[r].path.size());
      AttentionStep chain = NewStep(), prompt = NewStep();
      chain.Add({{0, tree[r].path, length - 1}});
      prompt.Add({{0, tree[r].path, length}});
      EXPECT_EQ(Of(in_tree, r), chain.Run(stream_)) << "prefix " << prefix << " node " << r;
      EXPECT_EQ(Of(in_tree, r), prompt.Run(stream_)) << "prefix " << prefix << " node " << r;
    }
  }
}

TEST_P(CudaTreeAttentionTest, OtherSequencesDoNotShowAndSchedulesNeither) {
  const Rows a = Tree(0, 200, 3, 2), b = Tree(1, 333, 5, 3), c = Tree(2, 12, 1, 1);
  AttentionStep together = NewStep(3);
  for (const Rows* tree : {&a, &b, &c}) together.Add(*tree);
  const std::vector<uint16_t> all = OnEverySchedule([&] { return together.Run(stream_); });
  AttentionStep alone = NewStep(3);
  alone.Add(b);
  const std::vector<uint16_t> only_b = alone.Run(stream_);
  for (size_t r = 0; r < b.size(); ++r) EXPECT_EQ(Of(only_b, r), Of(all, a.size() + r)) << r;
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaTreeAttentionTest,
                         testing::Values(AttentionShape{4, 2, 16}, AttentionShape{7, 1, 32, 70},
                                         AttentionShape{2, 1, 64}, AttentionShape{1, 1, 128, 200}));

}  // namespace
}  // namespace clamor::kernels::cuda
