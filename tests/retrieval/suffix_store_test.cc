#include "retrieval/suffix_store.h"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/retrieval/naive_store.h"
#include "tests/retrieval/test_support.h"

namespace clamor::retrieval {
namespace {

using testing::HasSubstr;

const Namespace kNs{"tenant", "f00d"};

std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST(SuffixStoreTest, DraftsWhatFollowed) {
  TempFolder folder;
  auto store = OpenStore(folder / "store");
  EXPECT_TRUE(*store->Append(kNs, "a", Tokens{1, 2, 3, 4, 5}));
  EXPECT_TRUE(*store->Append(kNs, "b", Tokens{9, 2, 3, 4, 6}));
  const auto trie = store->Draft(kNs, Tokens{7, 2, 3}, {});
  ASSERT_TRUE(trie.ok()) << trie.status();
  EXPECT_EQ(trie->match_length, 2);
  EXPECT_EQ(trie->occurrences, 2u);
  EXPECT_THAT(trie->nodes, testing::ElementsAre(Trie::Node{4, -1, 2, 2, 2}, Trie::Node{5, 0, 1, 2, 3},
                                                Trie::Node{6, 0, 1, 2, 3}));
  EXPECT_EQ(store->Draft(kNs, Tokens{1, 2, 3}, {})->occurrences, 1u) << "the longer match alone";
  EXPECT_EQ(*store->Draft(kNs, Tokens{4, 6}, {}), Trie{}) << "nothing follows";
  EXPECT_EQ(*store->Draft(kNs, Tokens{3}, {}), Trie{}) << "shorter than min_match";
  EXPECT_EQ(*store->Draft(kNs, Tokens{}, {}), Trie{});
}

// What followed half the context is worth less than what followed all of it, and more than nothing.
TEST(SuffixStoreTest, ShorterMatchesFillWhatTheLongestLeaves) {
  TempFolder folder;
  auto store = OpenStore(folder / "store");
  EXPECT_TRUE(*store->Append(kNs, "a", Tokens{1, 2, 3, 4, 5}));
  EXPECT_TRUE(*store->Append(kNs, "b", Tokens{9, 3, 4, 6, 7, 3, 4, 5, 8}));
  const Tokens context = {1, 2, 3, 4};
  const Trie::Node longest = {5, -1, 1, 1, 4}, fork = {6, -1, 1, 3, 2}, behind_both = {8, 0, 1, 2, 3};
  EXPECT_THAT(store->Draft(kNs, context, {.max_depth = 2})->nodes,
              testing::ElementsAre(longest, fork, behind_both, Trie::Node{7, 1, 1, 1, 3}));
  EXPECT_THAT(store->Draft(kNs, context, {.max_nodes = 2})->nodes, testing::ElementsAre(longest, fork));
  EXPECT_THAT(store->Draft(kNs, context, {.min_match = 3})->nodes, testing::ElementsAre(longest));
}

TEST(SuffixStoreTest, AppendIsIdempotentAndReplaces) {
  TempFolder folder;
  auto store = OpenStore(folder / "store");
  EXPECT_TRUE(*store->Append(kNs, "a", Tokens{1, 2, 3}));
  EXPECT_FALSE(*store->Append(kNs, "a", Tokens{1, 2, 3}));
  EXPECT_EQ(store->GetStats().documents, 1u);
  EXPECT_EQ(store->GetStats().tokens, 3u);
  EXPECT_TRUE(*store->Append(kNs, "a", Tokens{1, 2, 4, 5}));
  EXPECT_EQ(store->GetStats("tenant").documents, 1u);
  EXPECT_EQ(store->GetStats("tenant").tokens, 4u);
  const auto trie = store->Draft(kNs, Tokens{1, 2}, {});
  EXPECT_THAT(trie->nodes, testing::ElementsAre(Trie::Node{4, -1, 1, 1, 2}, Trie::Node{5, 0, 1, 1, 3}));
  EXPECT_TRUE(*store->DeleteDocument(kNs, "a"));
  EXPECT_FALSE(*store->DeleteDocument(kNs, "a"));
  EXPECT_EQ(*store->Draft(kNs, Tokens{1, 2}, {}), Trie{});
  EXPECT_EQ(store->GetStats().documents, 0u);
  EXPECT_EQ(store->GetStats().tokens, 0u);
  EXPECT_TRUE(store->CheckIntegrity().ok()) << store->CheckIntegrity();
}

TEST(SuffixStoreTest, OfEqualIdsInABatchTheLastCounts) {
  TempFolder folder;
  auto store = OpenStore(folder / "store");
  const Tokens x = {1, 2, 3}, y = {1, 2, 4};
  ASSERT_TRUE(*store->Append(kNs, "same", x));
  const std::vector<Document> batch = {{"a", x}, {"b", x}, {"a", y}, {"same", y}, {"same", x}};
  EXPECT_EQ(*store->AppendBatch(kNs, batch), (std::vector<bool>{false, true, true, false, false}));
  EXPECT_EQ(store->GetStats().documents, 3u);
  EXPECT_THAT(store->Draft(kNs, Tokens{1, 2}, {})->nodes,
              testing::ElementsAre(Trie::Node{3, -1, 2, 3, 2}, Trie::Node{4, -1, 1, 3, 2}));
  EXPECT_TRUE(store->AppendBatch(kNs, {})->empty());
}

TEST(SuffixStoreTest, BadInputIsRefusedWithBothNumbers) {
  TempFolder folder;
  auto opened =
      SuffixStore::Open({.path = folder / "store", .max_bytes_per_tenant = 1000, .max_document_tokens = 8});
  ASSERT_TRUE(opened.ok());
  SuffixStore& store = **opened;
  auto append = [&](const Namespace& ns, const std::string& id, const Tokens& tokens) {
    return store.Append(ns, id, tokens).status();
  };
  const auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(append({"", "f"}, "a", {1}).code(), kInvalid);
  EXPECT_EQ(append({std::string(129, 'x'), "f"}, "a", {1}).code(), kInvalid);
  EXPECT_EQ(append({"t", "not hex"}, "a", {1}).code(), kInvalid);
  EXPECT_EQ(append(kNs, "", {1}).code(), kInvalid);
  EXPECT_EQ(append(kNs, std::string(257, 'x'), {1}).code(), kInvalid);
  EXPECT_THAT(Message(append(kNs, "a", {})), HasSubstr("0 tokens, must have 1 to 8"));
  EXPECT_THAT(Message(append(kNs, "a", Tokens(9, 1))), HasSubstr("9 tokens, must have 1 to 8"));
  EXPECT_THAT(Message(append(kNs, "a", {5, 1u << 31})),
              HasSubstr("token id 2147483648 at 1, limit is 2147483648"));
  EXPECT_EQ(store.DeleteDocument(kNs, "").status().code(), kInvalid);
  EXPECT_EQ(store.DeleteTenant("").status().code(), kInvalid);
  EXPECT_EQ(store.DeleteTenant(std::string("a\0", 2)).status().code(), kInvalid);
  EXPECT_EQ(store.Draft({"t", ""}, Tokens{1}, {}).status().code(), kInvalid);
  EXPECT_EQ(store.Draft(kNs, Tokens{~0u}, {}).status().code(), kInvalid);
  EXPECT_THAT(Message(store.Draft(kNs, Tokens{1}, {.max_match = 257}).status()),
              HasSubstr("max_match is 257, must be 1 to 256"));
  EXPECT_THAT(Message(store.Draft(kNs, Tokens{1}, {.max_match = 3, .min_match = 4}).status()),
              HasSubstr("min_match is 4, must be 1 to 3"));
  for (const DraftOptions& bad :
       {DraftOptions{.max_nodes = 0}, DraftOptions{.max_nodes = 1025}, DraftOptions{.max_depth = -1},
        DraftOptions{.max_depth = 257}, DraftOptions{.max_occurrences = 0},
        DraftOptions{.max_occurrences = 4097}}) {
    EXPECT_EQ(store.Draft(kNs, Tokens{1}, bad).status().code(), kInvalid);
  }
  EXPECT_EQ(store.GetStats().documents, 0u);
  EXPECT_EQ(SuffixStore::Open({.path = ""}).status().code(), kInvalid);
  EXPECT_THAT(Message(SuffixStore::Open({.path = "x", .max_document_tokens = kMaxBatchTokens + 1}).status()),
              HasSubstr("max_document_tokens is 4194305, must be 1 to 4194304"));
}

TEST(SuffixStoreTest, ATenantKeepsToItsQuota) {
  TempFolder folder;
  // A document of n tokens counts 12 n, and 73 or 75 for its keys here.
  const StoreOptions options{.path = folder / "store", .max_bytes_per_tenant = 75 + 120};
  {
    auto store = *SuffixStore::Open(options);
    ASSERT_TRUE(store->Append({"t", "f1"}, "a", Tokens(6, 1)).ok());
    EXPECT_EQ(store->GetStats("t").charged_bytes, 75u + 72);
    const absl::Status refused = store->Append({"t", "f2"}, "b", Tokens(5, 1)).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(Message(refused), HasSubstr("282 bytes, limit is 195"));
    EXPECT_TRUE(store->Append({"u", "f2"}, "b", Tokens(10, 1)).ok()) << "another tenant has its own";
    EXPECT_TRUE(store->Append({"t", "f1"}, "a", Tokens(10, 2)).ok()) << "a replaced document makes room";
    EXPECT_FALSE(store->Append({"t", "f1"}, "c", Tokens(1, 2)).ok());
    EXPECT_FALSE(store->Append({"t", "f1"}, "a", Tokens(11, 2)).ok());
    EXPECT_TRUE(store->CheckIntegrity().ok()) << store->CheckIntegrity();
  }
  auto store = *SuffixStore::Open(options);
  EXPECT_FALSE(store->Append({"t", "f1"}, "c", Tokens(1, 2)).ok()) << "counted again after a restart";
  EXPECT_TRUE(store->Append({"t", "f1"}, "a", Tokens(9, 2)).ok()) << "less than before";
  EXPECT_TRUE(*store->DeleteDocument({"t", "f1"}, "a"));
  EXPECT_TRUE(store->Append({"t", "f1"}, "c", Tokens(10, 2)).ok());
  EXPECT_EQ(store->GetStats("t").charged_bytes, 195u);
}

TEST(SuffixStoreTest, AFullDiskRefusesButDeletes) {
  TempFolder folder;
  {
    auto store = OpenStore(folder / "store");
    ASSERT_TRUE(store->Append(kNs, "a", Tokens{1, 2, 3}).ok());
  }
  auto store = *SuffixStore::Open({.path = folder / "store", .min_free_bytes = uint64_t{1} << 62});
  const absl::Status refused = store->Append(kNs, "b", Tokens{1, 2, 3}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(refused), HasSubstr("4611686018427387904 must stay"));
  EXPECT_FALSE(*store->Append(kNs, "a", Tokens{1, 2, 3})) << "nothing to add";
  EXPECT_EQ(store->Draft(kNs, Tokens{1, 2}, {})->match_length, 2);
  EXPECT_TRUE(*store->DeleteDocument(kNs, "a"));
  EXPECT_TRUE(store->CheckIntegrity().ok()) << store->CheckIntegrity();
}

TEST(SuffixStoreTest, DocumentsExpire) {
  TempFolder folder;
  std::atomic<uint64_t> now{1000};
  const StoreOptions options{
      .path = folder / "store", .hot_tokens = 500, .clock = [&] { return now.load(); }};
  auto store = *SuffixStore::Open(options);
  auto live = [&](const std::string& id) {
    return store->Draft(kNs, Tokens{static_cast<uint32_t>(id[0]), 1}, {})->occurrences == 1;
  };
  auto append = [&](const std::string& id, uint64_t expires) {
    return *store->Append(kNs, id, Tokens{static_cast<uint32_t>(id[0]), 1, 2}, expires);
  };
  EXPECT_TRUE(append("a", 1010));
  EXPECT_TRUE(append("b", 1020));
  EXPECT_TRUE(append("c", 0));
  EXPECT_TRUE(append("d", 1010));
  EXPECT_TRUE(append("e", 1010));
  EXPECT_FALSE(append("b", 1005)) << "never sooner than it was said before";
  EXPECT_FALSE(append("d", 1030)) << "the same document, but later";
  EXPECT_FALSE(append("e", 0));
  EXPECT_FALSE(append("c", 1010)) << "never is the latest";
  now = 1009;
  EXPECT_EQ(*store->RemoveExpired(), 0u);
  EXPECT_TRUE(live("a"));
  ASSERT_TRUE(store->CheckIntegrity().ok()) << store->CheckIntegrity();
  now = 1010;
  store->RemoveExpired().IgnoreError();  // by the thread of the store or by this
  EXPECT_FALSE(live("a"));
  EXPECT_TRUE(live("b") && live("c") && live("d") && live("e"));
  EXPECT_EQ(store->GetStats().documents, 4u);
  ASSERT_TRUE(store->CheckIntegrity().ok()) << store->CheckIntegrity();
  // Expiries are kept; a replaced document has its own.
  store.reset();
  store = *SuffixStore::Open(options);
  EXPECT_TRUE(*store->Append(kNs, "d", Tokens{'x', 1, 2}, 1025));
  now = 1025;
  store->RemoveExpired().IgnoreError();
  EXPECT_FALSE(live("b") || live("x"));
  EXPECT_TRUE(live("c") && live("e"));
  now = uint64_t{1} << 50;
  store->RemoveExpired().IgnoreError();
  EXPECT_EQ(store->GetStats().documents, 2u);
  ASSERT_TRUE(store->CheckIntegrity().ok()) << store->CheckIntegrity();
}

TEST(SuffixStoreTest, ManyDocumentsExpireInSteps) {
  TempFolder folder;
  std::atomic<uint64_t> now{0};
  auto store =
      *SuffixStore::Open({.path = folder / "store", .hot_tokens = 500, .clock = [&] { return now.load(); }});
  const Tokens tokens = {1, 2, 3};
  std::vector<std::string> ids;
  for (int i = 0; i < 3000; ++i) ids.push_back(std::to_string(i));
  std::vector<Document> batch;
  for (size_t i = 0; i < ids.size(); ++i) batch.push_back({ids[i], tokens, 1 + i / 2});
  ASSERT_TRUE(store->AppendBatch(kNs, batch).ok());
  ASSERT_TRUE(store->AppendBatch({"other", "f0"}, batch).ok());
  now = 1400;
  store->RemoveExpired().IgnoreError();
  EXPECT_EQ(store->GetStats().documents, 400u);
  EXPECT_TRUE(store->CheckIntegrity().ok()) << store->CheckIntegrity();
  EXPECT_EQ(*store->DeleteTenant("other"), 200u);
  now = 2000;
  store->RemoveExpired().IgnoreError();
  EXPECT_EQ(store->GetStats().documents, 0u);
  EXPECT_EQ(store->GetStats().charged_bytes, 0u);
  EXPECT_TRUE(store->CheckIntegrity().ok()) << store->CheckIntegrity();
}

TEST(SuffixStoreTest, RandomChangesGiveWhatTheNaiveStoreGives) {
  // Several tenants and fingerprints at once, with reopening; each must look as if it were alone.
  const std::vector<Namespace> all = {{"a", "f0"}, {"a", "f1"}, {"a\x01", "f0"}, {"b", "f0"}};
  std::mt19937_64 random(7);
  for (int round = 0; round < 8 / (kSlow > 1 ? 4 : 1); ++round) {
    TempFolder folder;
    const uint32_t hot_tokens = round % 2 ? 500 : 4u << 20;  // all but nothing on the heap, or everything
    const uint32_t alphabet = 2 + random() % 4;
    auto store = OpenStore(folder / "store", hot_tokens);
    NaiveStore naive;
    for (int step = 0; step < 300 / kSlow; ++step) {
      const Namespace& ns = all[random() % all.size()];
      const std::string id = std::to_string(random() % 25);
      const int action = random() % 100;
      if (action < 60) {
        const Tokens tokens = RandomTokens(random, 1 + random() % 60, alphabet);
        ASSERT_EQ(*store->Append(ns, id, tokens), naive.Append(ns, id, tokens));
      } else if (action < 80) {
        ASSERT_EQ(*store->DeleteDocument(ns, id), naive.DeleteDocument(ns, id));
      } else if (action < 97) {
        const auto documents = naive.Documents(ns);
        for (const auto& [same_id, tokens] : documents) ASSERT_FALSE(*store->Append(ns, same_id, tokens));
      } else if (action < 98) {
        ASSERT_EQ(*store->DeleteTenant(ns.tenant), naive.DeleteTenant(ns.tenant));
      } else {
        store.reset();
        store = OpenStore(folder / "store", hot_tokens);
        ASSERT_NE(store, nullptr);
      }
      for (int query = 0; query < 5; ++query) {
        const Namespace& asked = all[random() % all.size()];
        const Tokens context = RandomTokens(random, random() % 14, alphabet);
        const DraftOptions options = RandomOptions(random);
        ASSERT_EQ(*store->Draft(asked, context, options), naive.Draft(asked, context, options));
      }
      if (step % 50 != 0) continue;
      ASSERT_TRUE(store->CheckIntegrity().ok()) << store->CheckIntegrity();
    }
  }
}

TEST(SuffixStoreTest, ANamespaceDraftsAsIfItWereAlone) {
  TempFolder folder;
  auto together = OpenStore(folder / "together", 1000);
  const std::vector<Namespace> all = {{"a", "f0"}, {"a", "f00"}, {"aa", "f0"}};
  std::vector<std::unique_ptr<SuffixStore>> alone;
  for (size_t i = 0; i < all.size(); ++i) alone.push_back(OpenStore(folder / std::to_string(i)));
  std::mt19937_64 random(8);
  for (int step = 0; step < 150 / kSlow; ++step) {
    const size_t i = random() % all.size();
    const std::string id = std::to_string(random() % 20);
    const Tokens tokens = RandomTokens(random, 50, 3);
    ASSERT_EQ(*together->Append(all[i], id, tokens), *alone[i]->Append(all[i], id, tokens));
    for (size_t j = 0; j < all.size(); ++j) {
      const Tokens context = RandomTokens(random, 12, 3);
      ASSERT_EQ(*together->Draft(all[j], context, {}), *alone[j]->Draft(all[j], context, {}));
    }
  }
}

TEST(SuffixStoreTest, IsOpenOnce) {
  TempFolder folder;
  auto store = OpenStore(folder / "store");
  const absl::Status second = SuffixStore::Open({.path = folder / "store"}).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(second), HasSubstr("open in another store"));
  store.reset();
  EXPECT_NE(OpenStore(folder / "store"), nullptr);
}

TEST(SuffixStoreTest, AFileInTheWayIsNamed) {
  TempFolder folder;
  std::ofstream(folder / "file") << "x";
  const absl::Status status = SuffixStore::Open({.path = folder / "file"}).status();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(Message(status), HasSubstr(folder / "file"));
}

TEST(SuffixStoreTest, StatsCountBytes) {
  TempFolder folder;
  auto store = OpenStore(folder / "store");
  std::mt19937_64 random(14);
  ASSERT_TRUE(store->Append(kNs, "a", RandomTokens(random, 300000, 1000)).ok());
  const Stats all = store->GetStats(), one = store->GetStats(kNs.tenant), none = store->GetStats("nobody");
  EXPECT_GE(all.bytes_on_disk, 300000u * 4);
  EXPECT_EQ(one.tokens, 300000u);
  EXPECT_EQ(one.segments, 1u);
  EXPECT_EQ(none.documents + none.tokens + none.bytes_on_disk + none.segments, 0u);
}

TEST(SuffixStoreTest, AppendsDraftsAndDeletionsAtOnce) {
  TempFolder folder;
  auto store = OpenStore(folder / "store", 3000);
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  // Every document of a tenant repeats one token, so that a draft tells whose text it saw.
  auto text_of = [](uint32_t tenant, std::mt19937_64& random) {
    return Tokens(5 + random() % 100, 100 + tenant);
  };
  for (uint32_t tenant = 0; tenant < 3; ++tenant) {
    threads.emplace_back([&, tenant] {
      std::mt19937_64 random(tenant);
      const Namespace ns{"tenant" + std::to_string(tenant), "f0"};
      for (int step = 0; step < 150 / kSlow; ++step) {
        const std::string id = std::to_string(random() % 20);
        const Tokens text = text_of(tenant, random);
        if (random() % 4 == 0) {
          EXPECT_TRUE(store->DeleteDocument(ns, id).ok());
        } else if (random() % 60 == 0) {
          EXPECT_TRUE(store->DeleteTenant(ns.tenant).ok());
        } else {
          EXPECT_TRUE(store->Append(ns, id, text).ok());
        }
      }
    });
  }
  std::vector<std::thread> readers;
  for (uint32_t tenant = 0; tenant < 3; ++tenant) {
    readers.emplace_back([&, tenant] {
      while (!stop) {
        const auto trie =
            store->Draft({"tenant" + std::to_string(tenant), "f0"}, Tokens(4, 100 + tenant), {});
        ASSERT_TRUE(trie.ok());
        for (const Trie::Node& node : trie->nodes) ASSERT_EQ(node.token, 100 + tenant);
        ASSERT_EQ(store->Draft({"tenant" + std::to_string(tenant), "f0"}, Tokens(4, 101 + tenant), {})
                      ->match_length,
                  0);
      }
    });
  }
  readers.emplace_back([&] {
    for (int copy = 0; !stop; ++copy) {
      EXPECT_TRUE(store->CheckIntegrity().ok()) << store->CheckIntegrity();
      store->GetStats();
      EXPECT_TRUE(store->Checkpoint(folder / ("copy" + std::to_string(copy))).ok());
    }
  });
  for (std::thread& thread : threads) thread.join();
  stop = true;
  for (std::thread& thread : readers) thread.join();
  EXPECT_TRUE(store->CheckIntegrity().ok()) << store->CheckIntegrity();
}

}  // namespace
}  // namespace clamor::retrieval
