// Attention on tensor cores: near what doubles give, and a row's bits the same in a tree, in a chain, as a
// prompt and among other rows.
#include "kernels/cuda/tree_attention.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/cuda/on_device.h"

namespace clamor::kernels::cuda {
namespace {

struct Shape {
  int heads, kv_heads, head_dim;
  int window = 0;

  int group() const { return heads / kv_heads; }
};

// A token is known by its key and value, [kv_heads * head_dim] each, and its query.
struct Token {
  std::vector<uint16_t> key, value, query;
};

// One row of a step: the tokens it sees in logical order, itself last; those from `committed` on are rows of
// the step.
struct Row {
  int sequence;
  std::vector<int> path;  // ids of tokens
  int committed;
};

// The device's view of a step, by the simplest means: each sequence has its pages from a shuffled list, nodes
// lie in slots of their own.
class Step {
 public:
  Step(const Shape& shape, const std::vector<Token>& tokens, int pages_per_sequence, int sequences,
       std::mt19937& random)
      : shape_(shape), tokens_(tokens), pages_per_sequence_(pages_per_sequence) {
    for (int i = 0; i < sequences * pages_per_sequence; ++i) page_table_.push_back(i);
    std::shuffle(page_table_.begin(), page_table_.end(), random);
    next_slot_ = sequences * pages_per_sequence * kPageTokens;
    const size_t elements = (next_slot_ + 128) * size_t{1} * shape.kv_heads * shape.head_dim;
    keys_.assign(elements, 0x7fc0);  // NaN where nothing is stored
    values_.assign(elements, 0x7fc0);
  }

  // The rows of one tree, whose first is the root, or rows of a prompt (committed is all of the path).
  void Add(const std::vector<Row>& rows) {
    const int tree = static_cast<int>(rows_.size());
    std::map<int, int> node_of;  // token to index in the tree
    for (const Row& row : rows) {
      const int position = static_cast<int>(row.path.size()) - 1;
      AttentionRow device = {.ancestors = 0,
                             .tree = tree,
                             .prefix = row.committed,
                             .position = position,
                             .sequence = row.sequence};
      for (int p = 0; p < row.committed; ++p) {
        const int page = page_table_[row.sequence * pages_per_sequence_ + p / kPageTokens];
        Store(page * kPageTokens + p % kPageTokens, row.path[p]);
      }
      const int own = static_cast<int>(rows_.size()) - tree;
      if (row.committed <= position) node_of[row.path.back()] = own;
      for (int p = row.committed; p <= position; ++p)
        device.ancestors |= uint64_t{1} << node_of.at(row.path[p]);
      Store(next_slot_, row.path.back());
      slots_.push_back(next_slot_++);
      rows_.push_back(device);
      const Token& token = tokens_[row.path.back()];
      q_.insert(q_.end(), token.query.begin(), token.query.end());
    }
    const int per_tile = kQueriesPerTile / shape_.group();
    for (int first = 0; first < static_cast<int>(rows.size()); first += per_tile) {
      tiles_.push_back({tree + first, std::min(per_tile, static_cast<int>(rows.size()) - first)});
    }
  }

  // [rows, heads * head_dim] bf16.
  std::vector<uint16_t> Run(cudaStream_t stream) {
    std::vector<AttentionTile> tiles = tiles_;
    tiles.push_back({0, 0});  // surplus, as a captured graph has it
    DeviceArray<uint16_t> q(stream, q_), keys(stream, keys_), values(stream, values_), out(stream, q_.size());
    DeviceArray<AttentionRow> rows(stream, rows_);
    DeviceArray<AttentionTile> device_tiles(stream, tiles);
    DeviceArray<int32_t> pages(stream, page_table_), slots(stream, slots_);
    DeviceArray<float> workspace(
        stream, 1 + TreeAttentionWorkspace(rows_.size(), shape_.heads, shape_.head_dim, pages_per_sequence_));
    TreeAttention({.q = q.data(),
                   .rows = rows.data(),
                   .tiles = device_tiles.data(),
                   .page_table = pages.data(),
                   .slots = slots.data(),
                   .row_count = static_cast<int64_t>(rows_.size()),
                   .tile_count = static_cast<int64_t>(tiles.size()),
                   .pages_per_sequence = pages_per_sequence_,
                   .heads = shape_.heads,
                   .scale = Scale(),
                   .window = shape_.window,
                   .kv = {.keys = keys.data(),
                          .values = values.data(),
                          .kv_heads = shape_.kv_heads,
                          .head_dim = shape_.head_dim},
                   .workspace = workspace.data(),
                   .out = out.data()},
                  stream);
    return out.Read();
  }

  float Scale() const { return 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)); }

 private:
  void Store(int slot, int token) {
    const int dim = shape_.head_dim;
    for (int h = 0; h < shape_.kv_heads; ++h) {
      const size_t to = ((size_t{1} * (slot / 16) * shape_.kv_heads + h) * 16 + slot % 16) * dim;
      std::copy_n(&tokens_[token].key[h * dim], dim, &keys_[to]);
      std::copy_n(&tokens_[token].value[h * dim], dim, &values_[to]);
    }
  }

  const Shape shape_;
  const std::vector<Token>& tokens_;
  const int32_t pages_per_sequence_;
  int next_slot_;
  std::vector<int32_t> page_table_, slots_;
  std::vector<uint16_t> keys_, values_, q_;
  std::vector<AttentionRow> rows_;
  std::vector<AttentionTile> tiles_;
};

class CudaTreeAttentionTest : public OnDevice, public testing::WithParamInterface<Shape> {
 protected:
  static constexpr int kPages = 24;  // of a sequence: three splits

  int NewToken() {
    const Shape& s = GetParam();
    tokens_.push_back({BF16sOf(Floats(s.kv_heads * s.head_dim, -2, 2)),
                       BF16sOf(Floats(s.kv_heads * s.head_dim)),
                       BF16sOf(Floats(s.heads * s.head_dim, -2, 2))});
    return static_cast<int>(tokens_.size()) - 1;
  }
  std::vector<int> NewTokens(int n) {
    std::vector<int> ids;
    for (int i = 0; i < n; ++i) ids.push_back(NewToken());
    return ids;
  }

  // Nodes in any shape behind `prefix`, parents first.
  std::vector<Row> RandomTree(int sequence, const std::vector<int>& prefix, int nodes, int deepest) {
    std::vector<Row> rows;
    for (int i = 0; i < nodes; ++i) {
      Row row = {sequence, prefix, static_cast<int>(prefix.size())};
      if (i > 0) {
        const Row& parent = rows[Between(std::max(0, i - 2), i - 1)];
        row.path =
            static_cast<int>(parent.path.size() - prefix.size()) < deepest ? parent.path : rows[0].path;
      }
      row.path.push_back(NewToken());
      rows.push_back(row);
    }
    return rows;
  }

  Step NewStep(int sequences = 1) { return Step(GetParam(), tokens_, kPages, sequences, random_); }

  // In doubles: [heads * head_dim].
  std::vector<double> Expected(const Row& row, float scale) {
    const Shape& s = GetParam();
    const int dim = s.head_dim;
    const Token& own = tokens_[row.path.back()];
    std::vector<double> out(s.heads * dim);
    for (int h = 0; h < s.heads; ++h) {
      const int kv = h / s.group();
      double total = 0;
      const size_t first =
          s.window > 0 && row.path.size() > static_cast<size_t>(s.window) ? row.path.size() - s.window : 0;
      for (size_t p = first; p < row.path.size(); ++p) {
        const Token& other = tokens_[row.path[p]];
        double score = 0;
        for (int d = 0; d < dim; ++d)
          score += double{Widen(own.query[h * dim + d])} * Widen(other.key[kv * dim + d]);
        const double weight = std::exp(score * scale);
        total += weight;
        for (int d = 0; d < dim; ++d) out[h * dim + d] += weight * Widen(other.value[kv * dim + d]);
      }
      for (int d = 0; d < dim; ++d) out[h * dim + d] /= total;
    }
    return out;
  }

  std::vector<uint16_t> Of(const std::vector<uint16_t>& all, size_t row) {
    const size_t n = GetParam().heads * GetParam().head_dim;
    return std::vector<uint16_t>(all.begin() + row * n, all.begin() + (row + 1) * n);
  }

  std::vector<Token> tokens_;
};

TEST_P(CudaTreeAttentionTest, IsNearWhatDoublesGive) {
  for (const int prefix : {0, 15, 190, 191, 330}) {
    const std::vector<Row> tree = RandomTree(0, NewTokens(prefix), 7, 4);
    Step step = NewStep();
    step.Add(tree);
    const std::vector<uint16_t> got = step.Run(stream_);
    for (size_t r = 0; r < tree.size(); ++r) {
      const std::vector<double> expected = Expected(tree[r], step.Scale());
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
    const std::vector<Row> tree = RandomTree(0, NewTokens(prefix), kMaxNodes, kMaxNodes - 1);
    Step step = NewStep();
    step.Add(tree);
    const std::vector<uint16_t> in_tree = step.Run(stream_);
    for (const size_t r : {size_t{0}, size_t{17}, size_t{63}}) {
      const int length = static_cast<int>(tree[r].path.size());
      Step chain = NewStep(), prompt = NewStep();
      chain.Add({{0, tree[r].path, length - 1}});
      prompt.Add({{0, tree[r].path, length}});
      EXPECT_EQ(Of(in_tree, r), chain.Run(stream_)) << "prefix " << prefix << " node " << r;
      EXPECT_EQ(Of(in_tree, r), prompt.Run(stream_)) << "prefix " << prefix << " node " << r;
    }
  }
}

TEST_P(CudaTreeAttentionTest, OtherSequencesDoNotShowAndSchedulesNeither) {
  const std::vector<Row> a = RandomTree(0, NewTokens(200), 3, 2), b = RandomTree(1, NewTokens(333), 5, 3),
                         c = RandomTree(2, NewTokens(12), 1, 1);
  Step together = NewStep(3);
  for (const auto* tree : {&a, &b, &c}) together.Add(*tree);
  const std::vector<uint16_t> all = OnEverySchedule([&] { return together.Run(stream_); });
  Step alone = NewStep(3);
  alone.Add(b);
  const std::vector<uint16_t> only_b = alone.Run(stream_);
  for (size_t r = 0; r < b.size(); ++r) EXPECT_EQ(Of(only_b, r), Of(all, a.size() + r)) << r;
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaTreeAttentionTest,
                         testing::Values(Shape{4, 2, 16}, Shape{7, 1, 32, 70}, Shape{2, 1, 64},
                                         Shape{1, 1, 128, 200}));

}  // namespace
}  // namespace clamor::kernels::cuda
