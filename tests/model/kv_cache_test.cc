#include "model/kv_cache.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/tree_attention.h"

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
  {
    KvLease a, b, c;
    ASSERT_TRUE(cache.Grow(a, 33));   // three pages
    ASSERT_TRUE(cache.Grow(b, 112));  // seven
    EXPECT_EQ(cache.pages_used(), 10);
    EXPECT_FALSE(cache.Grow(c, 1));
    EXPECT_TRUE(cache.Grow(c, 0));
    EXPECT_FALSE(cache.Grow(a, 49));
    EXPECT_TRUE(cache.Grow(a, 48));
    EXPECT_EQ(a.pages().size(), 3u);
    std::set<int32_t> pages(a.pages().begin(), a.pages().end());
    pages.insert(b.pages().begin(), b.pages().end());
    EXPECT_EQ(pages.size(), 10u);
    EXPECT_EQ(a.Slot(16), a.pages()[1] * kernels::kPageSize);
    EXPECT_EQ(a.Slot(31), a.pages()[1] * kernels::kPageSize + 15);
    cache.Shrink(b, 17);
    EXPECT_EQ(cache.pages_used(), 5);
    cache.Shrink(b, 1000);
    EXPECT_EQ(b.pages().size(), 2u);
  }
  EXPECT_EQ(cache.pages_used(), 0);
}

TEST(KvCacheTest, MovedLeaseReturnsItsPagesOnce) {
  KvCache cache(Config(), 4);
  KvLease a;
  ASSERT_TRUE(cache.Grow(a, 64));
  KvLease b = std::move(a);
  EXPECT_EQ(cache.pages_used(), 4);
  KvLease c;
  c = std::move(b);
  EXPECT_EQ(cache.pages_used(), 4);
  c = KvLease();
  EXPECT_EQ(cache.pages_used(), 0);
}

TEST(KvCacheTest, ForgetsOneTenant) {
  KvCache cache(Config(), 8);
  std::vector<int32_t> text(40);
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<int32_t>(i);
  const auto fill = [&](const char* tenant, const std::vector<int32_t>& words) {
    KvLease lease = cache.Find(tenant, words);
    EXPECT_TRUE(cache.Grow(lease, static_cast<int64_t>(words.size())));
    for (const int32_t page : lease.pages()) std::memset(cache.layer(1).ValueTile(page, 0), 7, 8);
    cache.Share(lease, words);
    return std::vector<int32_t>(lease.pages().begin(), lease.pages().end());
  };
  const std::vector<int32_t> pages = fill("a", text);
  fill("b", text);
  {
    // An end whose beginning was evicted is forgotten, too: nothing leads to it any more.
    KvLease all;
    EXPECT_TRUE(cache.Grow(all, 16 * 3));
  }
  fill("a", text);
  {
    KvLease held = cache.Find("a", text);
    cache.Forget("a");
    EXPECT_EQ(cache.Find("a", text).tokens(), 32);  // in use
  }
  cache.Forget("a");
  EXPECT_EQ(cache.Find("a", text).tokens(), 0);
  EXPECT_EQ(cache.Find("b", text).tokens(), 32);
  EXPECT_EQ(cache.pages_free(), 8);
  for (const int32_t page : pages) {
    const bool is_b = cache.Find("b", text).pages()[0] == page || cache.Find("b", text).pages()[1] == page;
    if (!is_b && page != pages.back()) { EXPECT_EQ(int(*cache.layer(1).ValueTile(page, 0)), 0) << page; }
  }
  fill("a", text);
  EXPECT_EQ(cache.Find("a", text).tokens(), 32);
}

// Against a cache that remembers which text each page was filled with: random texts from few tokens, so that
// many begin alike, in a pool that is always short.
TEST(KvCacheTest, PrefixesAgainstWhatWasWritten) {
  std::mt19937 random(1);
  const auto below = [&random](int n) { return static_cast<int>(random() % static_cast<uint32_t>(n)); };
  int64_t hits = 0, refusals = 0;
  for (int round = 0; round < 20; ++round) {
    constexpr int64_t kPages = 24;
    KvCache cache(Config(), kPages);
    using Written = std::pair<std::string, std::vector<int32_t>>;  // tenant, text up to the page's end
    std::vector<Written> written(kPages);
    struct Holder {
      std::string tenant;
      std::vector<int32_t> text;
      KvLease lease;
    };
    std::vector<Holder> holders;
    for (int step = 0; step < 2000; ++step) {
      if (below(3) > 0 || holders.empty()) {
        Holder h{.tenant = below(2) ? "a" : "b", .text = {}, .lease = {}};
        for (int page = 0, pages = below(6); page < pages; ++page) {
          h.text.insert(h.text.end(), kernels::kPageSize, below(2));
          h.text.back() = below(2);
        }
        h.text.resize(h.text.size() + below(kernels::kPageSize), 7);
        h.lease = cache.Find(h.tenant, h.text);
        ASSERT_LE(h.lease.tokens(), static_cast<int64_t>(h.text.size()));
        hits += h.lease.tokens();
        for (size_t i = 0; i < h.lease.pages().size(); ++i) {
          const std::vector<int32_t> beginning(h.text.begin(), h.text.begin() + (i + 1) * kernels::kPageSize);
          ASSERT_EQ(written[h.lease.pages()[i]], Written(h.tenant, beginning)) << "page " << i;
        }
        const size_t found = h.lease.pages().size();
        if (!cache.Grow(h.lease, static_cast<int64_t>(h.text.size()) + below(20))) {
          ++refusals;
          ASSERT_EQ(h.lease.pages().size(), found);
          if (!holders.empty()) holders.erase(holders.begin() + below(static_cast<int>(holders.size())));
          continue;
        }
        // Writing to a page that anyone else holds would spoil his text.
        for (size_t i = found; i < h.lease.pages().size(); ++i) {
          const int32_t page = h.lease.pages()[i];
          for (const Holder& other : holders) {
            const auto held = other.lease.pages();
            ASSERT_EQ(std::count(held.begin(), held.end(), page), 0);
          }
          const size_t end = std::min(h.text.size(), (i + 1) * kernels::kPageSize);
          written[page] = {h.tenant, {h.text.begin(), h.text.begin() + end}};
        }
        cache.Share(h.lease, std::span(h.text).first(below(static_cast<int>(h.text.size()) + 1)));
        cache.Share(h.lease, h.text);
        holders.push_back(std::move(h));
      } else {
        holders.erase(holders.begin() + below(static_cast<int>(holders.size())));
      }
      std::set<int32_t> used;
      for (const Holder& h : holders) used.insert(h.lease.pages().begin(), h.lease.pages().end());
      ASSERT_EQ(cache.pages_used(), static_cast<int64_t>(used.size()));
    }
    holders.clear();
    EXPECT_EQ(cache.pages_used(), 0);
    KvLease all;
    EXPECT_TRUE(cache.Grow(all, kPages * kernels::kPageSize));  // what is kept stands in nobody's way
  }
  EXPECT_GT(hits, 10000);
  EXPECT_GT(refusals, 100);
}

TEST(KvCacheTest, TheLongestUnusedGoesFirstAndTheEndOfATextBeforeItsBeginning) {
  KvCache cache(Config(), 4);
  const std::vector<int32_t> old_text(32, 1), new_text(32, 2);
  for (const auto* text : {&old_text, &new_text}) {
    KvLease lease = cache.Find("a", *text);
    ASSERT_TRUE(cache.Grow(lease, 32));
    cache.Share(lease, *text);
  }
  EXPECT_EQ(cache.Find("a", old_text).tokens(), 32);
  EXPECT_EQ(cache.Find("a", new_text).tokens(), 32);
  EXPECT_EQ(cache.Find("b", new_text).tokens(), 0) << "another tenant's";
  KvLease lease;
  ASSERT_TRUE(cache.Grow(lease, 16));
  EXPECT_EQ(cache.Find("a", old_text).tokens(), 16);
  ASSERT_TRUE(cache.Grow(lease, 32));
  EXPECT_EQ(cache.Find("a", old_text).tokens() + cache.Find("a", new_text).tokens(), 32);
}

constexpr kernels::KvFormat kFormats[] = {kernels::KvFormat::kF32, kernels::KvFormat::kBF16,
                                          kernels::KvFormat::kInt8};

void ExpectMoveCopiesEveryLayer(kernels::KvFormat format) {
  const ModelConfig config = Config();
  KvCache cache(config, 4, format);
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

TEST(KvCacheTest, MoveCopiesEveryLayerBitForBit) {
  for (const kernels::KvFormat format : kFormats) ExpectMoveCopiesEveryLayer(format);
}

// Whole pages of the system within [from, from + bytes) that are in memory.
size_t ResidentBytes(const std::byte* from, size_t bytes) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> resident((bytes + page - 1) / page);
  EXPECT_EQ(mincore(const_cast<std::byte*>(from), bytes, resident.data()), 0);
  return page * std::ranges::count_if(resident, [](unsigned char r) { return r & 1; });
}

TEST(KvCacheTest, TakesWhatBytesPerPageSays) {
  // 64 keys or values of a token, in 4, 2 and 1 bytes, the last with 2 scales of 4 bytes.
  ModelConfig config = Config();
  config.head_dim = 32;
  EXPECT_EQ(KvCache::BytesPerPage(config, kernels::KvFormat::kF32), 2u * 2 * 16 * 64 * 4);
  EXPECT_EQ(KvCache::BytesPerPage(config, kernels::KvFormat::kBF16), 2u * 2 * 16 * 64 * 2);
  EXPECT_EQ(KvCache::BytesPerPage(config, kernels::KvFormat::kInt8), 2u * 2 * 16 * (64 + 2 * 4));

  constexpr int kPages = 128;
  kernels::ThreadPool pool(1);
  for (const kernels::KvFormat format : kFormats) {
    KvCache cache(config, kPages, format);
    const size_t predicted = KvCache::BytesPerPage(config, format) * kPages;
    const std::byte* begin = cache.layer(0).keys;
    EXPECT_EQ(ResidentBytes(begin, predicted), 0u);
    const std::vector<float> ones(config.kv_size(), 1.0f);
    for (int32_t slot = 0; slot < kPages * kernels::kPageSize; ++slot) {
      for (int layer = 0; layer < config.layers; ++layer)
        kernels::StoreKv(ones.data(), 0, ones.data(), 0, 1, &slot, cache.layer(layer), pool);
    }
    EXPECT_EQ(ResidentBytes(begin, predicted), predicted) << kernels::KvFormatName(format);
    // All of it is used: the last value of the last layer ends where the memory does.
    const kernels::KvLayer last = cache.layer(config.layers - 1);
    EXPECT_EQ(last.ValueTile(kPages - 1, config.kv_heads - 1) +
                  kernels::KvTileBytes(format, config.head_dim) - begin,
              static_cast<ptrdiff_t>(predicted));
  }
}

}  // namespace
}  // namespace clamor
