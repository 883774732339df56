// Walking trees of drafts, and moving what was accepted, against plain loops.
#include "kernels/cuda/accept.h"

#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/cuda/on_device.h"

namespace clamor::kernels::cuda {
namespace {

class AcceptTest : public OnDevice {};

TEST_F(AcceptTest, WalksDownWhatWasDrawn) {
  for (int round = 0; round < 3; ++round) {
    std::vector<StepTree> trees;
    std::vector<int32_t> tokens, parents, drawn;
    std::vector<Accepted> expected;
    for (const int nodes : {1, 0, 20, kMaxNodes}) {
      const int first = static_cast<int>(tokens.size());
      trees.push_back({first, nodes, 0, 0});
      for (int i = 0; i < nodes; ++i) {
        parents.push_back(i == 0 ? -1 : Between(std::max(0, i - 4), i - 1));
        tokens.push_back(Between(0, 2));  // few, so that walks run deep and siblings are alike
        drawn.push_back(Between(0, 2));
      }
      Accepted a = {.count = 0, .next = -1, .nodes = {}};
      for (int node = nodes > 0 ? 0 : -1; node >= 0;) {
        a.nodes[a.count++] = node;
        a.next = drawn[first + node];
        int child = -1;
        for (int i = nodes - 1; i > node; --i) {
          if (parents[first + i] == node && tokens[first + i] == a.next) child = i;
        }
        node = child;
      }
      expected.push_back(a);
    }
    const std::vector<int32_t> got = OnEverySchedule([&] {
      DeviceArray<StepTree> device_trees(stream_, trees);
      DeviceArray<int32_t> t(stream_, tokens), p(stream_, parents), d(stream_, drawn);
      // Zeros first: what lies behind count is not written.
      DeviceArray<Accepted> accepted(stream_, std::vector<Accepted>(trees.size()));
      Accept({.trees = device_trees.data(),
              .tokens = t.data(),
              .parents = p.data(),
              .drawn = d.data(),
              .tree_count = static_cast<int64_t>(trees.size()),
              .accepted = accepted.data()},
             stream_);
      const std::vector<Accepted> all = accepted.Read();
      std::vector<int32_t> numbers(all.size() * sizeof(Accepted) / sizeof(int32_t));
      std::memcpy(numbers.data(), all.data(), all.size() * sizeof(Accepted));
      return numbers;
    });
    EXPECT_EQ(std::memcmp(got.data(), expected.data(), got.size() * sizeof(int32_t)), 0) << "round " << round;
  }
}

TEST_F(AcceptTest, CommitsWhereSourcesAndTargetsOverlap) {
  const int kv_heads = 2, dim = 16, pages = 6, layers = 2;
  const size_t elements = size_t{pages} * kPageTokens * kv_heads * dim;
  const std::vector<uint16_t> before = BF16sOf(Floats(4 * elements));  // keys and values of two layers
  // Sequence 0 has page 2, then 0; its nodes lie where accepted ones go. Sequence 1 has page 4, its node in
  // page 5.
  const std::vector<int32_t> page_table = {2, 0, 4, 3};
  const std::vector<StepTree> trees = {{0, 5, 14, 0}, {5, 2, 3, 1}};
  const std::vector<int32_t> slots = {47, 46, 1, 0, 30, 80, 81};
  std::vector<Accepted> accepted(2);
  accepted[0] = {.count = 4, .next = 9, .nodes = {0, 1, 3, 4}};
  accepted[1] = {.count = 1, .next = 9, .nodes = {0}};

  std::vector<uint16_t> expected = before;
  for (size_t plane = 0; plane < 4; ++plane) {
    for (size_t t = 0; t < trees.size(); ++t) {
      for (int i = 0; i < accepted[t].count; ++i) {
        const int from = slots[trees[t].first + accepted[t].nodes[i]], position = trees[t].prefix + i;
        const int to = page_table[trees[t].sequence * 2 + position / 16] * 16 + position % 16;
        for (int h = 0; h < kv_heads; ++h) {
          for (int d = 0; d < dim; ++d) {
            const auto at = [&](int slot) {
              return plane * elements + ((size_t{1} * (slot / 16) * kv_heads + h) * 16 + slot % 16) * dim + d;
            };
            expected[at(to)] = before[at(from)];
          }
        }
      }
    }
  }
  EXPECT_NE(expected, before);
  EXPECT_EQ(
      OnEverySchedule([&] {
        DeviceArray<uint16_t> cache(stream_, before);
        std::vector<KvPages> planes;
        for (int l = 0; l < layers; ++l) {
          uint16_t* const keys = cache.data() + 2 * l * elements;
          planes.push_back({.keys = keys, .values = keys + elements, .kv_heads = kv_heads, .head_dim = dim});
        }
        DeviceArray<KvPages> device_planes(stream_, planes);
        DeviceArray<StepTree> device_trees(stream_, trees);
        DeviceArray<Accepted> device_accepted(stream_, accepted);
        DeviceArray<int32_t> device_slots(stream_, slots), pages_of(stream_, page_table);
        CommitKv({.trees = device_trees.data(),
                  .accepted = device_accepted.data(),
                  .slots = device_slots.data(),
                  .page_table = pages_of.data(),
                  .pages_per_sequence = 2,
                  .tree_count = 2,
                  .layers = device_planes.data(),
                  .layer_count = layers,
                  .kv_heads = kv_heads,
                  .head_dim = dim},
                 stream_);
        return cache.Read();
      }),
      expected);
}

}  // namespace
}  // namespace clamor::kernels::cuda
