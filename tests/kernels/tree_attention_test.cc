#include "kernels/tree_attention.h"

#include <algorithm>
#include <numeric>

#include "gtest/gtest.h"
#include "tests/kernels/on_target.h"
#include "tests/kernels/reference.h"

namespace clamor::kernels {
namespace {

struct Shape {
  int kv_heads, group, head_dim;
  int heads() const { return kv_heads * group; }
};

constexpr KvFormat kFormats[] = {KvFormat::kF32, KvFormat::kBF16, KvFormat::kInt8};

// A layer whose unwritten slots hold NaN, in every format, so that a key which should not be seen poisons the
// result.
class Cache {
 public:
  Cache(Shape shape, int pages, std::mt19937& random, KvFormat format = KvFormat::kF32) : pages_(pages) {
    const size_t size = KvTileBytes(format, shape.head_dim) * pages * shape.kv_heads;
    keys_.assign(size + 64, std::byte{0xff});
    values_ = keys_;
    layer_ = {Aligned(keys_), Aligned(values_), shape.kv_heads, shape.head_dim, format};
    std::iota(pages_.begin(), pages_.end(), 0);
    std::shuffle(pages_.begin(), pages_.end(), random);
  }

  const KvLayer& layer() const { return layer_; }

  // Pages in no particular order.
  std::vector<int32_t> Take(int count) {
    std::vector<int32_t> taken(pages_.end() - count, pages_.end());
    pages_.resize(pages_.size() - count);
    return taken;
  }

 private:
  static std::byte* Aligned(std::vector<std::byte>& v) {
    return reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(v.data()) + 63) / 64 * 64);
  }

  std::vector<std::byte> keys_, values_;
  std::vector<int32_t> pages_;
  KvLayer layer_;
};

constexpr Shape kShapes[] = {{1, 1, 8},  {2, 2, 12}, {1, 2, 6},  {2, 7, 64}, {1, 3, 24},
                             {2, 2, 16}, {1, 30, 8}, {3, 1, 40}, {1, 5, 128}};
constexpr int32_t kWindows[] = {0, 1, 3, 17, 16, 40, 1000};

// The keys and values of one sequence by logical position, independent of where they will be stored.
struct Content {
  std::vector<float> k, v;
};

// A sequence of `prefix` committed tokens with a draft tree below it, as the rows of a verification step.
struct Tree {
  std::vector<int32_t> pages;
  std::vector<std::vector<int>> paths;       // of each node: the nodes from the draft's root to itself
  std::vector<std::vector<int32_t>> extras;  // the same as slots
  std::vector<AttentionRow> rows;
};

class TreeAttentionTest : public OnTarget {
 protected:
  Content Make(int tokens, Shape s) {
    const size_t size = size_t{1} * tokens * s.kv_heads * s.head_dim;
    return {Floats(size), Floats(size)};
  }

  // Stores token `from + i` of the content at slots[i].
  void Store(const Content& content, int from, const std::vector<int32_t>& slots, Shape s, Cache& cache) {
    const size_t width = size_t{1} * s.kv_heads * s.head_dim;
    StoreKv(content.k.data() + from * width, width, content.v.data() + from * width, width, slots.size(),
            slots.data(), cache.layer(), pool_);
  }

  static std::vector<int32_t> SlotsOf(const std::vector<int32_t>& pages, int tokens) {
    std::vector<int32_t> slots(tokens);
    for (int i = 0; i < tokens; ++i) slots[i] = pages[i / kPageSize] * kPageSize + i % kPageSize;
    return slots;
  }

  // Node i is token prefix + i of the content; the nodes lie in shuffled slots.
  Tree PlantTree(const Content& content, int prefix, int nodes, Shape s, Cache& cache) {
    Tree tree = {.pages = cache.Take((prefix + 31) / kPageSize), .paths = {}, .extras = {}, .rows = {}};
    std::vector<int32_t> slots = SlotsOf(cache.Take(3), 3 * kPageSize);
    std::shuffle(slots.begin(), slots.end(), random_);
    slots.resize(nodes);
    Store(content, 0, SlotsOf(tree.pages, prefix), s, cache);
    Store(content, prefix, slots, s, cache);
    for (int node = 0; node < nodes; ++node) {
      // Most nodes extend the last one, so that some paths are longer than a tile of sixteen.
      const int parent = Below(4) > 0 ? node - 1 : Below(node + 1) - 1;
      tree.paths.push_back(parent < 0 ? std::vector<int>() : tree.paths[parent]);
      tree.paths.back().push_back(node);
      tree.extras.push_back(parent < 0 ? std::vector<int32_t>() : tree.extras[parent]);
      tree.extras.back().push_back(slots[node]);
    }
    for (const std::vector<int32_t>& e : tree.extras) {
      tree.rows.push_back({tree.pages.data(), prefix, e.data(), static_cast<int32_t>(e.size())});
    }
    return tree;
  }

  std::vector<float> Attend(const std::vector<float>& q, const std::vector<AttentionRow>& rows, Shape s,
                            int32_t window, const Cache& cache, ThreadPool& pool) {
    const size_t width = size_t{1} * s.heads() * s.head_dim;
    const size_t out_stride = width + 3;
    std::vector<float> out(rows.size() * out_stride, 77.0f), dense;
    TreeAttention(q.data(), width, rows, s.heads(), 0.17f, window, cache.layer(), out.data(), out_stride,
                  pool);
    for (size_t r = 0; r < rows.size(); ++r) {
      dense.insert(dense.end(), out.begin() + r * out_stride, out.begin() + r * out_stride + width);
      for (size_t i = width; i < out_stride; ++i) EXPECT_EQ(out[r * out_stride + i], 77.0f);
    }
    return dense;
  }

  void CheckAgainstTwin(const std::vector<AttentionRow>& rows, Shape s, int32_t window, const Cache& cache,
                        ThreadPool& pool) {
    const std::vector<float> q = Floats(rows.size() * s.heads() * s.head_dim, -4.0f, 4.0f);
    std::vector<float> expected(q.size());
    for (size_t r = 0; r < rows.size(); ++r) {
      for (int h = 0; h < s.heads(); ++h) {
        const size_t at = (r * s.heads() + h) * s.head_dim;
        reference::Attention(&q[at], rows[r], h / s.group, 0.17f, window, cache.layer(), &expected[at]);
      }
    }
    for (float v : expected) ASSERT_FALSE(std::isnan(v));
    const std::vector<float> actual = Attend(q, rows, s, window, cache, pool);
    ASSERT_TRUE(SameBits(expected, actual))
        << s.kv_heads << " key heads, group " << s.group << ", head_dim " << s.head_dim << ", window "
        << window << ", " << KvFormatName(cache.layer().format);
  }

  void CheckAllWindows(const std::vector<AttentionRow>& rows, Shape s, const Cache& cache) {
    for (size_t i = 0; i < std::size(kWindows); i += kStride)
      CheckAgainstTwin(rows, s, kWindows[i], cache, pool_);
  }

  ThreadPool pool_{2};
};

TEST_P(TreeAttentionTest, TreesMatchTheTwin) {
  for (const Shape& s : kShapes) {
    for (int prefix : {0, 1, 15, 16, 17, 75}) {
      Cache cache(s, 20, random_);
      const Tree tree = PlantTree(Make(prefix + 22, s), prefix, 1 + Below(22), s, cache);
      CheckAllWindows(tree.rows, s, cache);
    }
  }
}

// Both as a tree, whose rows share what was widened, and row by row.
TEST_P(TreeAttentionTest, NarrowFormatsMatchTheTwin) {
  for (const KvFormat format : {KvFormat::kBF16, KvFormat::kInt8}) {
    for (const Shape& s : kShapes) {
      for (int prefix : {0, 17, 75}) {
        Cache cache(s, 20, random_, format);
        const Tree tree = PlantTree(Make(prefix + 22, s), prefix, 1 + Below(22), s, cache);
        for (int32_t window : {0, 40}) {
          CheckAgainstTwin(tree.rows, s, window, cache, pool_);
          CheckAgainstTwin({tree.rows.back()}, s, window, cache, pool_);
        }
      }
    }
  }
}

TEST_P(TreeAttentionTest, LongChainsOfExtraSlotsMatchTheTwin) {
  const Shape s = {1, 3, 16};
  Cache cache(s, 8, random_);
  const std::vector<int32_t> pages = cache.Take(2);
  std::vector<int32_t> slots = SlotsOf(cache.Take(5), 70);
  Store(Make(21, s), 0, SlotsOf(pages, 21), s, cache);
  Store(Make(70, s), 0, slots, s, cache);
  std::shuffle(slots.begin(), slots.end(), random_);
  std::vector<AttentionRow> rows;
  for (int i = 1; i <= 70; ++i) rows.push_back({pages.data(), 21, slots.data(), i});
  CheckAllWindows(rows, s, cache);
}

// Prompt rows: each sees one more position of the same pages.
TEST_P(TreeAttentionTest, PromptsMatchTheTwin) {
  for (size_t i = 0; i < std::size(kShapes); i += kStride) {
    const Shape s = kShapes[i];
    Cache cache(s, 10, random_);
    const std::vector<int32_t> pages = cache.Take(6);
    Store(Make(70, s), 0, SlotsOf(pages, 70), s, cache);
    std::vector<AttentionRow> rows;
    for (int prefix = 1; prefix <= 70; ++prefix) rows.push_back({pages.data(), prefix, nullptr, 0});
    CheckAllWindows(rows, s, cache);
    std::shuffle(rows.begin(), rows.end(), random_);  // neighbours with very different lengths
    CheckAllWindows(rows, s, cache);
  }
}

// Around the ends of chunks, where sums are folded: trees that begin before and end behind one, windows that
// begin in another.
TEST_P(TreeAttentionTest, ChunksMatchTheTwin) {
  int turn = 0;
  for (const Shape& s : {Shape{2, 2, 12}, Shape{1, 7, 16}}) {
    for (int prefix : {kKeyChunk - 17, kKeyChunk - 5, kKeyChunk, 2 * kKeyChunk - 1, 3 * kKeyChunk + 40}) {
      Cache cache(s, prefix / kPageSize + 6, random_, kFormats[turn++ % 3]);
      const Tree tree = PlantTree(Make(prefix + 20, s), prefix, 20, s, cache);
      for (int32_t window : {0, 30, kKeyChunk, 2 * kKeyChunk - 10})
        CheckAgainstTwin(tree.rows, s, window, cache, pool_);
    }
  }
}

// Few rows with many keys are cut into chunks for the threads, many rows are not.
TEST_P(TreeAttentionTest, ChunksOnAnyNumberOfThreads) {
  const Shape s = {1, 3, 8};
  const int tokens = 2 * kKeyChunk + 100;
  Cache cache(s, 2 * (tokens / kPageSize + 1), random_);
  std::vector<AttentionRow> rows;
  std::vector<int32_t> pages[2];
  for (std::vector<int32_t>& p : pages) {
    p = cache.Take(tokens / kPageSize + 1);
    Store(Make(tokens, s), 0, SlotsOf(p, tokens), s, cache);
    for (int prefix = tokens; prefix > kKeyChunk - 10; prefix -= 40)
      rows.push_back({p.data(), prefix, nullptr, 0});
  }
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    CheckAgainstTwin({rows.front()}, s, 0, cache, pool);
    CheckAgainstTwin({rows.front(), rows.back()}, s, 700, cache, pool);
    if (threads <= 2) CheckAgainstTwin(rows, s, 0, cache, pool);
  }
}

TEST_P(TreeAttentionTest, ManySequencesOnAnyNumberOfThreads) {
  const Shape s = {2, 7, 16};
  Cache cache(s, 200, random_);
  std::vector<Tree> trees;
  std::vector<AttentionRow> rows;
  for (int i = 0; i < 12; ++i) {
    const int prefix = Below(100), nodes = 1 + Below(6);
    trees.push_back(PlantTree(Make(prefix + nodes, s), prefix, nodes, s, cache));
    rows.insert(rows.end(), trees.back().rows.begin(), trees.back().rows.end());
  }
  for (int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    for (int32_t window : {0, 25}) CheckAgainstTwin(rows, s, window, cache, pool);
  }
  CheckAgainstTwin({}, s, 0, cache, pool_);
}

// The property that the whole design rests on: a node of a tree gets the bits that plain decoding would have
// given it.
TEST_P(TreeAttentionTest, ATreeNodeEqualsItsChain) {
  for (int trial = 0; trial < 60; trial += kStride) {
    const Shape s = kShapes[trial % std::size(kShapes)];
    const int32_t window = kWindows[Below(std::size(kWindows))];
    const int prefix = Below(120) + (trial % 6 == 0 ? kKeyChunk - 60 : 0), nodes = 1 + Below(30);
    const Content content = Make(prefix + nodes, s);
    Cache cache(s, 100, random_, kFormats[Below(3)]);
    const Tree tree = PlantTree(content, prefix, nodes, s, cache);
    const size_t width = size_t{1} * s.heads() * s.head_dim;
    const std::vector<float> q = Floats(nodes * width, -4.0f, 4.0f);
    const std::vector<float> together = Attend(q, tree.rows, s, window, cache, pool_);

    // The same path as a chain in fresh pages, read as one plain decode step.
    const int node = Below(nodes);
    const std::vector<int>& path = tree.paths[node];
    const int length = prefix + static_cast<int>(path.size());
    const std::vector<int32_t> pages = cache.Take(length / kPageSize + 1);
    const std::vector<int32_t> slots = SlotsOf(pages, length);
    Store(content, 0, {slots.begin(), slots.begin() + prefix}, s, cache);
    for (size_t i = 0; i < path.size(); ++i) Store(content, prefix + path[i], {slots[prefix + i]}, s, cache);
    const std::vector<float> alone = Attend({q.begin() + node * width, q.begin() + (node + 1) * width},
                                            {{pages.data(), length, nullptr, 0}}, s, window, cache, pool_);
    ASSERT_TRUE(SameBits(alone.data(), together.data() + node * width, width)) << "trial " << trial;
  }
}

CLAMOR_ON_EVERY_TARGET(TreeAttentionTest);

}  // namespace
}  // namespace clamor::kernels
