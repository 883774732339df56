// Draft trees go up, are walked down, and become text.
#include <algorithm>
#include <cstring>

#include "kernels/cuda/accept.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/step_io.h"
#include "model/cuda/step_layout.h"
#include "tests/kernels/cuda/conformance.h"

namespace clamor::kernels::cuda {
namespace {

struct DraftTree {
  std::vector<int32_t> tokens, parents, drawn;
};
// Few tokens, so that walks run deep and siblings are alike.
DraftTree RandomDrafts(Random& random, int nodes) {
  DraftTree tree = {random.Ints(nodes, 0, 2), {}, random.Ints(nodes, 0, 2)};
  for (int i = 0; i < nodes; ++i)
    tree.parents.push_back(i == 0 ? -1 : random.Between(std::max(0, i - 4), i - 1));
  return tree;
}

// Units are trees, of which some are empty and some as large as they come.
Problem AcceptWalk(Random& random, int units) {
  std::vector<DraftTree> trees;
  for (int i = 0; i < units; ++i)
    trees.push_back(RandomDrafts(random, i % 3 == 2 ? 0 : i % 3 == 1 ? kMaxNodes : random.Between(1, 30)));
  return {.reference =
              [=] {
                Results results(2);
                for (const DraftTree& tree : trees) {
                  std::vector<float> path(kMaxNodes, -1.0f);
                  int count = 0;
                  int32_t next = -1;
                  for (int node = tree.tokens.empty() ? -1 : 0; node >= 0;) {
                    path[count++] = static_cast<float>(node);
                    next = tree.drawn[node];
                    int child = -1;
                    for (int i = static_cast<int>(tree.tokens.size()) - 1; i > node; --i) {
                      if (tree.parents[i] == node && tree.tokens[i] == next) child = i;
                    }
                    node = child;
                  }
                  results[0].values.insert(results[0].values.end(),
                                           {static_cast<float>(count), static_cast<float>(next)});
                  results[1].values.insert(results[1].values.end(), path.begin(), path.end());
                }
                return results;
              },
          .cpu = nullptr,
          .device =
              [=](cudaStream_t stream, int count) {
                std::vector<StepTree> step;
                DraftTree all;
                for (const DraftTree& tree : First(trees, count)) {
                  step.push_back({static_cast<int32_t>(all.tokens.size()),
                                  static_cast<int32_t>(tree.tokens.size()), 0, 0});
                  all.tokens.insert(all.tokens.end(), tree.tokens.begin(), tree.tokens.end());
                  all.parents.insert(all.parents.end(), tree.parents.begin(), tree.parents.end());
                  all.drawn.insert(all.drawn.end(), tree.drawn.begin(), tree.drawn.end());
                }
                Accepted none = {.count = 0, .next = 0, .nodes = {}};
                std::fill_n(none.nodes, kMaxNodes, -1);  // what lies behind count is not written
                DeviceArray<StepTree> device_trees(stream, step);
                DeviceArray<int32_t> t(stream, all.tokens), p(stream, all.parents), d(stream, all.drawn);
                DeviceArray<Accepted> accepted(stream, std::vector<Accepted>(count, none));
                Accept({.trees = device_trees.data(),
                        .tokens = t.data(),
                        .parents = p.data(),
                        .drawn = d.data(),
                        .tree_count = count,
                        .accepted = accepted.data()},
                       stream);
                Results results(2);
                for (const Accepted& a : accepted.Read()) {
                  results[0].values.insert(results[0].values.end(),
                                           {static_cast<float>(a.count), static_cast<float>(a.next)});
                  results[1].values.insert(results[1].values.end(), a.nodes, a.nodes + kMaxNodes);
                }
                return results;
              }};
}

// Units are sequences, each of two pages: nodes lie behind the prefix, some where accepted ones go.
Problem Compaction(Random& random, int units) {
  const int kv_heads = random.Between(1, 3), dim = 16 * random.Between(1, 3), layers = 2, prefix = 5,
            nodes = 20;
  const size_t page = size_t{kPageTokens} * kv_heads * dim, plane = 2 * units * page;
  const std::vector<float> before = random.BF16s(2 * layers * plane);  // keys and values of each layer
  std::vector<Accepted> accepted(units);
  for (Accepted& a : accepted) {
    a = {.count = 0, .next = 0, .nodes = {}};
    for (int node = 0; node < nodes; ++node) {
      if (node == 0 || random.Between(0, 2) > 0) a.nodes[a.count++] = node;
    }
  }
  // Sequence s has pages 2 s + 1 and 2 s; node i stands at position prefix + i.
  const auto slot = [](int sequence, int position) {
    return (2 * sequence + 1 - position / kPageTokens) * kPageTokens + position % kPageTokens;
  };
  // By unit: its pages of every plane.
  const auto by_unit = [=](const std::vector<float>& all, int count) {
    std::vector<float> out;
    for (int u = 0; u < count; ++u) {
      for (int p = 0; p < 2 * layers; ++p) {
        const auto from = all.begin() + p * plane + u * 2 * page;
        out.insert(out.end(), from, from + 2 * page);
      }
    }
    return Results{{out}};
  };
  const auto element = [=](int at, int head) {
    return ((size_t{1} * (at / 16) * kv_heads + head) * 16 + at % 16) * dim;
  };
  return {
      .reference =
          [=] {
            std::vector<float> after = before;
            for (int u = 0; u < units; ++u) {
              for (int i = 0; i < accepted[u].count; ++i) {
                const int from = slot(u, prefix + accepted[u].nodes[i]), to = slot(u, prefix + i);
                for (int p = 0; p < 2 * layers; ++p) {
                  for (int h = 0; h < kv_heads; ++h)
                    std::copy_n(&before[p * plane + element(from, h)], dim,
                                &after[p * plane + element(to, h)]);
                }
              }
            }
            return by_unit(after, units);
          },
      .cpu =
          [=](ThreadPool& pool) {
            // Each row in and out of a cache of the CPU's own layout, one plane at a time as its keys.
            std::vector<float> after = before;
            for (int p = 0; p < 2 * layers; ++p) {
              const size_t bytes = 2 * units * kv_heads * KvTileBytes(KvFormat::kBF16, dim);
              std::vector<std::byte> memory(2 * bytes + 64);
              std::byte* const base =
                  reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
              const KvLayer layer = {base, base + bytes, kv_heads, dim, KvFormat::kBF16};
              const auto row_of = [&](const std::vector<float>& all, int32_t at) {
                std::vector<float> row;
                for (int h = 0; h < kv_heads; ++h) {
                  const float* const from = &all[p * plane + element(at, h)];
                  row.insert(row.end(), from, from + dim);
                }
                return row;
              };
              for (int32_t at = 0; at < 2 * units * kPageTokens; ++at) {
                const std::vector<float> row = row_of(before, at);
                StoreKv(row.data(), row.size(), row.data(), row.size(), 1, &at, layer, pool);
              }
              for (int u = 0; u < units; ++u) {
                for (int i = 0; i < accepted[u].count; ++i)
                  MoveKv(layer, slot(u, prefix + accepted[u].nodes[i]), slot(u, prefix + i));
              }
              for (int32_t at = 0; at < 2 * units * kPageTokens; ++at) {
                for (int h = 0; h < kv_heads; ++h) {
                  for (int d = 0; d < dim; ++d)
                    after[p * plane + element(at, h) + d] = reference::ValueElement(layer, at, h, d);
                }
              }
            }
            return by_unit(after, units);
          },
      .device =
          [=](cudaStream_t stream, int count) {
            DeviceArray<uint16_t> cache(stream, BF16sOf(before));
            std::vector<KvPages> planes;
            for (int l = 0; l < layers; ++l) {
              uint16_t* const keys = cache.data() + 2 * l * plane;
              planes.push_back({.keys = keys, .values = keys + plane, .kv_heads = kv_heads, .head_dim = dim});
            }
            std::vector<StepTree> trees;
            std::vector<int32_t> slots, pages;
            for (int u = 0; u < count; ++u) {
              trees.push_back({u * nodes, nodes, prefix, u});
              for (int i = 0; i < nodes; ++i) slots.push_back(slot(u, prefix + i));
              pages.insert(pages.end(), {2 * u + 1, 2 * u});
            }
            DeviceArray<KvPages> device_planes(stream, planes);
            DeviceArray<StepTree> device_trees(stream, trees);
            DeviceArray<Accepted> device_accepted(stream, First(accepted, count));
            DeviceArray<int32_t> device_slots(stream, slots), pages_of(stream, pages);
            CommitKv({.trees = device_trees.data(),
                      .accepted = device_accepted.data(),
                      .slots = device_slots.data(),
                      .page_table = pages_of.data(),
                      .pages_per_sequence = 2,
                      .tree_count = count,
                      .layers = device_planes.data(),
                      .layer_count = layers,
                      .kv_heads = kv_heads,
                      .head_dim = dim},
                     stream);
            return by_unit(Widened(cache.Read()), count);
          }};
}

// Units are sequences with a tree each; what the device then knows of each node: its token, place, and what
// it sees.
Problem Upload(Random& random, int units) {
  struct Sequence {
    DraftTree tree;
    std::vector<int32_t> pages;
    int32_t prefix;
  };
  std::vector<Sequence> sequences;
  std::vector<int32_t> pages(8 * units);
  for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<int32_t>(i);
  random.Shuffle(pages);
  for (int u = 0; u < units; ++u) {
    sequences.push_back({.tree = RandomDrafts(random, random.Between(1, kMaxNodes)),
                         .pages = {pages.begin() + 8 * u, pages.begin() + 8 * (u + 1)},
                         .prefix = random.Between(0, 60)});
  }
  const auto slot = [](const Sequence& s, int position) {
    return s.pages[position / kPageTokens] * kPageTokens + position % kPageTokens;
  };
  const int most = units * kMaxNodes;
  return {
      .reference =
          [=] {
            std::vector<float> out;
            int first = 0;
            for (int u = 0; u < units; ++u) {
              const Sequence& s = sequences[u];
              const int nodes = static_cast<int>(s.tree.tokens.size());
              for (int i = 0; i < nodes; ++i) {
                std::vector<float> sees(kMaxNodes);
                int depth = -1;
                for (int at = i; at >= 0; at = s.tree.parents[at], ++depth) sees[at] = 1.0f;
                out.insert(out.end(), sees.begin(), sees.end());
                for (const int v : {s.tree.tokens[i], s.prefix + depth, slot(s, s.prefix + i), s.prefix,
                                    first, s.prefix + depth, s.pages[s.prefix / kPageTokens]}) {
                  out.push_back(static_cast<float>(v));
                }
              }
              first += nodes;
            }
            return Results{{out}};
          },
      .cpu = nullptr,
      .device =
          [=](cudaStream_t stream, int count) {
            Batch batch;
            batch.extra.reserve(most * kMaxNodes);
            for (int u = 0; u < count; ++u) {
              const Sequence& s = sequences[u];  // the batch borrows its pages
              for (size_t i = 0; i < s.tree.tokens.size(); ++i) {
                const size_t begin = batch.extra.size();
                for (int at = static_cast<int>(i); at >= 0; at = s.tree.parents[at])
                  batch.extra.push_back(slot(s, s.prefix + at));
                std::reverse(batch.extra.begin() + begin, batch.extra.end());
                const auto depth = static_cast<int32_t>(batch.extra.size() - begin);
                batch.tokens.push_back(s.tree.tokens[i]);
                batch.positions.push_back(s.prefix + depth - 1);
                batch.slots.push_back(slot(s, s.prefix + static_cast<int>(i)));
                batch.logit_rows.push_back(static_cast<int32_t>(batch.logit_rows.size()));
                batch.attention.push_back({.pages = s.pages.data(),
                                           .prefix = s.prefix,
                                           .extra = batch.extra.data() + begin,
                                           .extra_count = depth});
              }
            }
            StepWriter writer(8 * units * kPageTokens, /*group=*/2, units);
            const StepShape shape = writer.ShapeOf(batch);
            const StepPlaces places(shape);
            StepInputs inputs(places.bytes);
            writer.Write(batch, shape, inputs.Next());
            inputs.Upload(places.bytes, stream);
            PinnedBuffer back(places.bytes);
            const std::byte* const bytes = back.Fetch(inputs.device(), places.bytes, stream);
            std::vector<float> out;
            for (int64_t r = 0; r < batch.rows(); ++r) {
              AttentionRow row;
              std::memcpy(&row, bytes + places.attention + r * sizeof(row), sizeof(row));
              const auto number = [&](size_t at, int64_t i) {
                int32_t v;
                std::memcpy(&v, bytes + at + i * sizeof(v), sizeof(v));
                return v;
              };
              for (int i = 0; i < kMaxNodes; ++i) out.push_back(static_cast<float>(row.ancestors >> i & 1));
              // Surplus pages are not written.
              const int page = row.prefix / kPageTokens;
              const int32_t in_table =
                  row.prefix % kPageTokens == 0
                      ? sequences[row.sequence].pages[page]
                      : number(places.page_table, int64_t{row.sequence} * shape.pages_per_sequence + page);
              for (const int v : {number(places.tokens, r), number(places.positions, r),
                                  number(places.slots, r), row.prefix, row.tree, row.position, in_table}) {
                out.push_back(static_cast<float>(v));
              }
            }
            return Results{{out}};
          }};
}

}  // namespace

std::vector<Operator> DraftOperators() {
  const std::vector<int> few = {1, 2, 6};
  return {{"DraftTreeUpload", Upload, few},
          {"AcceptWalk", AcceptWalk, kTextCounts},
          {"KvCompaction", Compaction, few}};
}

}  // namespace clamor::kernels::cuda
