#include "model/kv_cache.h"

#include <cstring>
#include <set>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace clamor {
namespace {

ModelConfig Config() {
  ModelConfig c;
  c.layers = 2;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 8;
  return c;
}

TEST(KvCacheTest, LeasesAreDisjointAndComeBack) {
  KvCache cache(Config(), 10);
  EXPECT_EQ(cache.pages_total(), 10);
  {
    const auto a = cache.Lease(33);   // three pages
    const auto b = cache.Lease(112);  // seven
    ASSERT_TRUE(a && b);
    EXPECT_EQ(cache.pages_used(), 10);
    EXPECT_FALSE(cache.Lease(1));
    std::set<int32_t> pages(a->pages().begin(), a->pages().end());
    pages.insert(b->pages().begin(), b->pages().end());
    EXPECT_EQ(pages.size(), 10u);
    EXPECT_EQ(a->Slot(16), a->pages()[1] * kernels::kPageSize);
    EXPECT_EQ(a->Slot(31), a->pages()[1] * kernels::kPageSize + 15);
  }
  EXPECT_EQ(cache.pages_used(), 0);
}

TEST(KvCacheTest, MovedLeaseReturnsItsPagesOnce) {
  KvCache cache(Config(), 4);
  KvLease a = *cache.Lease(64);
  KvLease b = std::move(a);
  EXPECT_EQ(cache.pages_used(), 4);
  KvLease c;
  c = std::move(b);
  EXPECT_EQ(cache.pages_used(), 4);
  c = KvLease();
  EXPECT_EQ(cache.pages_used(), 0);
  EXPECT_TRUE(cache.Lease(0));
}

TEST(KvCacheTest, MoveCopiesEveryLayerBitForBit) {
  const ModelConfig config = Config();
  KvCache cache(config, 4);
  kernels::ThreadPool pool(1);
  const int32_t slots[] = {5, 40};
  std::vector<float> k(2 * config.kv_size()), v(2 * config.kv_size()), q(config.q_size(), 1.0f);
  for (int layer = 0; layer < config.layers; ++layer) {
    for (size_t i = 0; i < k.size(); ++i) {
      k[i] = static_cast<float>(layer) + 0.25f * static_cast<float>(i);
      v[i] = -k[i] + 1;
    }
    kernels::StoreKv(k.data(), config.kv_size(), v.data(), config.kv_size(), 2, slots, cache.layer(layer),
                     pool);
  }
  // What a row that sees only one slot gets is that slot's value.
  const auto seen = [&](int layer, int32_t slot) {
    const kernels::AttentionRow row{.extra = &slot, .extra_count = 1};
    std::vector<float> out(config.q_size());
    kernels::TreeAttention(q.data(), config.q_size(), {&row, 1}, config.heads, 1.0f, 0, cache.layer(layer),
                           out.data(), config.q_size(), pool);
    return out;
  };
  for (int layer = 0; layer < config.layers; ++layer) {
    const auto expected = seen(layer, 40);
    EXPECT_NE(seen(layer, 5), expected);
  }
  cache.Move(40, 5);
  for (int layer = 0; layer < config.layers; ++layer) EXPECT_EQ(seen(layer, 5), seen(layer, 40));
}

}  // namespace
}  // namespace clamor
