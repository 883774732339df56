// Tokens, draft trees over them, and the device's view of a step of such trees by the simplest means: for
// tests of attention over the cache in pages.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <random>
#include <vector>

#include "kernels/cuda/tree_attention.h"
#include "kernels/kv_layer.h"
#include "kernels/tree_attention.h"
#include "tests/kernels/cuda/on_device.h"

namespace clamor::kernels::cuda {

struct AttentionShape {
  int heads, kv_heads, head_dim;
  int window = 0;

  int group() const { return heads / kv_heads; }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(head_dim)); }
};

// One row of a step: the tokens it sees in logical order, itself last; those from `committed` on are rows of
// the step.
struct AttentionRowPath {
  int sequence;
  std::vector<int> path;  // ids of tokens
  int committed;
};

// A token is known by its key and value, [kv_heads * head_dim] each, and its query, all of them bf16.
class AttentionTokens {
 public:
  struct Token {
    std::vector<float> key, value, query;
  };

  AttentionTokens(const AttentionShape& shape, std::mt19937& random) : shape_(shape), random_(random()) {}

  const Token& operator[](int id) const { return tokens_[id]; }

  std::vector<int> Add(int n) {
    std::vector<int> ids;
    for (int i = 0; i < n; ++i) {
      const int kv = shape_.kv_heads * shape_.head_dim, q = shape_.heads * shape_.head_dim;
      tokens_.push_back({Vector(kv, 2), Vector(kv, 1), Vector(q, 2)});
      ids.push_back(static_cast<int>(tokens_.size()) - 1);
    }
    return ids;
  }

  // Nodes in any shape behind `prefix`, parents first, at most `deepest` of them on a path.
  std::vector<AttentionRowPath> RandomTree(int sequence, const std::vector<int>& prefix, int nodes,
                                           int deepest) {
    std::vector<AttentionRowPath> rows;
    for (int i = 0; i < nodes; ++i) {
      AttentionRowPath row = {sequence, prefix, static_cast<int>(prefix.size())};
      if (i > 0) {
        const AttentionRowPath& parent =
            rows[std::uniform_int_distribution<int>(std::max(0, i - 2), i - 1)(random_)];
        const int depth = static_cast<int>(parent.path.size() - prefix.size());
        row.path = depth < deepest ? parent.path : rows[0].path;
      }
      row.path.push_back(Add(1)[0]);
      rows.push_back(row);
    }
    return rows;
  }

  // In doubles: [heads * head_dim].
  std::vector<double> Attend(const AttentionRowPath& row) const {
    const int dim = shape_.head_dim;
    const Token& own = tokens_[row.path.back()];
    std::vector<double> out(shape_.heads * dim);
    const size_t window = shape_.window, size = row.path.size();
    for (int h = 0; h < shape_.heads; ++h) {
      const int kv = h / shape_.group();
      double total = 0;
      for (size_t p = window > 0 && size > window ? size - window : 0; p < size; ++p) {
        const Token& other = tokens_[row.path[p]];
        double score = 0;
        for (int d = 0; d < dim; ++d) score += double{own.query[h * dim + d]} * other.key[kv * dim + d];
        const double weight = std::exp(score * shape_.scale());
        total += weight;
        for (int d = 0; d < dim; ++d) out[h * dim + d] += weight * other.value[kv * dim + d];
      }
      for (int d = 0; d < dim; ++d) out[h * dim + d] /= total;
    }
    return out;
  }

 private:
  std::vector<float> Vector(int n, float most) {
    std::vector<float> v(n);
    for (float& x : v)
      x = reference::RoundToBF16(std::uniform_real_distribution<float>(-most, most)(random_));
    return v;
  }

  const AttentionShape shape_;
  std::mt19937 random_;
  std::vector<Token> tokens_;
};

// Each sequence has its pages from a shuffled list, rows lie in slots of their own.
class AttentionStep {
 public:
  static constexpr int kPages = 24;  // of a sequence: three splits

  AttentionStep(const AttentionShape& shape, const AttentionTokens& tokens, int sequences,
                std::mt19937& random)
      : shape_(shape), tokens_(tokens), next_slot_(sequences * kPages * kPageTokens) {
    for (int i = 0; i < sequences * kPages; ++i) page_table_.push_back(i);
    std::shuffle(page_table_.begin(), page_table_.end(), random);
    const size_t elements = (next_slot_ + 192) * size_t{1} * shape.kv_heads * shape.head_dim;
    keys_.assign(elements, 0x7fc0);  // NaN where nothing is stored
    values_.assign(elements, 0x7fc0);
  }

  // The rows of one tree, whose first is the root, or rows of a prompt (committed is all of the path).
  void Add(const std::vector<AttentionRowPath>& rows) {
    const int tree = static_cast<int>(rows_.size());
    std::map<int, int> node_of;  // token to index in the tree
    for (const AttentionRowPath& row : rows) {
      const int position = static_cast<int>(row.path.size()) - 1;
      AttentionRow device = {.ancestors = 0,
                             .tree = tree,
                             .prefix = row.committed,
                             .position = position,
                             .sequence = row.sequence};
      for (int p = 0; p < row.committed; ++p) {
        const int page = page_table_[row.sequence * kPages + p / kPageTokens];
        Store(page * kPageTokens + p % kPageTokens, row.path[p]);
      }
      const int own = static_cast<int>(rows_.size()) - tree;
      if (row.committed <= position) node_of[row.path.back()] = own;
      for (int p = row.committed; p <= position; ++p)
        device.ancestors |= uint64_t{1} << node_of.at(row.path[p]);
      Store(next_slot_, row.path.back());
      slots_.push_back(next_slot_++);
      rows_.push_back(device);
      const std::vector<float>& query = tokens_[row.path.back()].query;
      q_.insert(q_.end(), query.begin(), query.end());
    }
    const int per_tile = kQueriesPerTile / shape_.group();
    for (int first = 0; first < static_cast<int>(rows.size()); first += per_tile) {
      tiles_.push_back({tree + first, std::min(per_tile, static_cast<int>(rows.size()) - first)});
    }
  }

  // [rows, heads * head_dim] bf16.
  std::vector<uint16_t> Run(cudaStream_t stream) const {
    std::vector<AttentionTile> tiles = tiles_;
    tiles.push_back({0, 0});  // surplus, as a captured graph has it
    DeviceArray<uint16_t> q(stream, BF16sOf(q_)), keys(stream, keys_), values(stream, values_),
        out(stream, q_.size());
    DeviceArray<AttentionRow> rows(stream, rows_);
    DeviceArray<AttentionTile> device_tiles(stream, tiles);
    DeviceArray<int32_t> pages(stream, page_table_), slots(stream, slots_);
    DeviceArray<float> workspace(
        stream, 1 + TreeAttentionWorkspace(rows_.size(), shape_.heads, shape_.head_dim, kPages));
    TreeAttention({.q = q.data(),
                   .rows = rows.data(),
                   .tiles = device_tiles.data(),
                   .page_table = pages.data(),
                   .slots = slots.data(),
                   .row_count = static_cast<int64_t>(rows_.size()),
                   .tile_count = static_cast<int64_t>(tiles.size()),
                   .pages_per_sequence = kPages,
                   .heads = shape_.heads,
                   .scale = shape_.scale(),
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

  // The same by the CPU's operator.
  std::vector<float> RunOnCpu(ThreadPool& pool) const {
    const int dim = shape_.head_dim, kv_size = shape_.kv_heads * dim, slots = next_slot_;
    const size_t bytes = (slots / kPageTokens + 1) * shape_.kv_heads * KvTileBytes(KvFormat::kBF16, dim);
    std::vector<std::byte> memory(2 * bytes + 64);
    std::byte* const base =
        reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
    const KvLayer layer = {.keys = base,
                           .values = base + bytes,
                           .kv_heads = shape_.kv_heads,
                           .head_dim = dim,
                           .format = KvFormat::kBF16};
    for (int32_t slot = 0; slot < slots; ++slot) {
      std::vector<float> key, value;
      for (int h = 0; h < shape_.kv_heads; ++h) {
        for (int d = 0; d < dim; ++d) {
          key.push_back(Widen(keys_[Element(slot, h) + d]));
          value.push_back(Widen(values_[Element(slot, h) + d]));
        }
      }
      StoreKv(key.data(), kv_size, value.data(), kv_size, 1, &slot, layer, pool);
    }
    std::vector<std::vector<int32_t>> extra(rows_.size());
    std::vector<kernels::AttentionRow> rows;
    for (size_t r = 0; r < rows_.size(); ++r) {
      for (int node = 0; node < kMaxNodes; ++node) {
        if (rows_[r].ancestors >> node & 1) extra[r].push_back(slots_[rows_[r].tree + node]);
      }
      rows.push_back({.pages = &page_table_[rows_[r].sequence * kPages],
                      .prefix = rows_[r].prefix,
                      .extra = extra[r].data(),
                      .extra_count = static_cast<int32_t>(extra[r].size())});
    }
    std::vector<float> out(q_.size());
    const size_t stride = shape_.heads * dim;
    kernels::TreeAttention(q_.data(), stride, rows, shape_.heads, shape_.scale(), shape_.window, layer,
                           out.data(), stride, pool);
    return out;
  }

 private:
  size_t Element(int slot, int head) const {
    return ((size_t{1} * (slot / 16) * shape_.kv_heads + head) * 16 + slot % 16) * shape_.head_dim;
  }
  void Store(int slot, int token) {
    const int dim = shape_.head_dim;
    for (int h = 0; h < shape_.kv_heads; ++h) {
      for (int d = 0; d < dim; ++d) {
        keys_[Element(slot, h) + d] = BF16Of(tokens_[token].key[h * dim + d]);
        values_[Element(slot, h) + d] = BF16Of(tokens_[token].value[h * dim + d]);
      }
    }
  }

  const AttentionShape shape_;
  const AttentionTokens& tokens_;
  int next_slot_;
  std::vector<int32_t> page_table_, slots_;
  std::vector<uint16_t> keys_, values_;
  std::vector<float> q_;
  std::vector<AttentionRow> rows_;
  std::vector<AttentionTile> tiles_;
};

}  // namespace clamor::kernels::cuda
