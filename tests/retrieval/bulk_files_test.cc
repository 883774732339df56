// Segments made outside, and stores that load them.
#include "retrieval/bulk_files.h"

#include <atomic>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "retrieval/suffix_store.h"
#include "tests/retrieval/naive_store.h"
#include "tests/retrieval/test_support.h"

namespace clamor::retrieval {
namespace {

using testing::HasSubstr;

const Namespace kNs{"tenant", "f00d"};

// Documents "first", "first + 1" ... of random tokens, into segments of at most `segment_tokens`, and the
// same into `naive`. Returns the paths of all segments of the folder.
std::vector<std::string> Write(const std::string& folder, int first, int count, uint32_t segment_tokens,
                               std::mt19937_64& random, NaiveStore* naive = nullptr) {
  BulkWriter writer(folder, kNs, segment_tokens);
  for (int i = first; i < first + count; ++i) {
    const Tokens tokens = RandomTokens(random, 1 + random() % 60, 4);
    EXPECT_TRUE(writer.Add(std::to_string(i), tokens).ok());
    if (naive != nullptr) naive->Append(kNs, std::to_string(i), tokens);
  }
  EXPECT_TRUE(writer.Finish().ok());
  EXPECT_GT(writer.segments(), 0u);
  return *ListBulkSegments(folder);
}

void ExpectSame(const SuffixStore& store, const NaiveStore& naive, std::mt19937_64& random) {
  const absl::Status sound = store.CheckIntegrity();
  ASSERT_TRUE(sound.ok()) << sound;
  for (int query = 0; query < 60; ++query) {
    const Tokens context = RandomTokens(random, 12, 4);
    const DraftOptions options = RandomOptions(random);
    ASSERT_EQ(*store.Draft(kNs, context, options), naive.Draft(kNs, context, options));
  }
}

TEST(BulkFilesTest, WhatIsWrittenComesBack) {
  std::mt19937_64 random(1);
  TempFolder folder;
  NaiveStore naive;
  const std::vector<std::string> paths = Write(folder / "bulk", 0, 100, 500, random, &naive);
  EXPECT_GT(paths.size(), 3u);
  std::map<std::string, Tokens> found;
  for (const std::string& path : paths) {
    const auto bulk = OpenBulkSegment(path);
    ASSERT_TRUE(bulk.ok()) << bulk.status();
    EXPECT_EQ(bulk->ns, kNs);
    EXPECT_LE(bulk->segment->tokens(), 500u);
    for (size_t i = 0; i < bulk->ids.size(); ++i) {
      const auto text = bulk->segment->Text(bulk->segment->documents()[i]);
      EXPECT_TRUE(found.emplace(bulk->ids[i], Tokens(text.begin(), text.end())).second);
    }
  }
  EXPECT_EQ(found, naive.Documents(kNs));
  EXPECT_FALSE(ListBulkSegments(folder / "nowhere").ok());
}

TEST(BulkFilesTest, TheSameJobWritesTheSameFiles) {
  TempFolder folder;
  std::mt19937_64 random(2), again(2), other(3);
  EXPECT_EQ(Write(folder / "bulk", 0, 50, 500, random), Write(folder / "bulk", 0, 50, 500, again));
  EXPECT_GT(Write(folder / "bulk", 0, 50, 500, other).size(), 3u);
}

TEST(BulkFilesTest, OfEqualIdsTheLastCountsAndBadOnesAreRefused) {
  TempFolder folder;
  BulkWriter writer(folder / "bulk", kNs, 100);
  ASSERT_TRUE(writer.Add("a", Tokens{1, 2}).ok());
  ASSERT_TRUE(writer.Add("b", Tokens{3}).ok());
  ASSERT_TRUE(writer.Add("a", Tokens{4, 5}).ok());
  EXPECT_FALSE(writer.Add("", Tokens{1}).ok());
  EXPECT_FALSE(writer.Add("x", Tokens{}).ok());
  EXPECT_FALSE(writer.Add("x", Tokens(101, 1)).ok());
  EXPECT_FALSE(writer.Add("x", Tokens{kTokenLimit}).ok());
  ASSERT_TRUE(writer.Finish().ok());
  const auto bulk = OpenBulkSegment(ListBulkSegments(folder / "bulk")->front());
  ASSERT_TRUE(bulk.ok()) << bulk.status();
  EXPECT_THAT(bulk->ids, testing::ElementsAre("b", "a"));
  EXPECT_THAT(bulk->segment->Text(bulk->segment->documents()[1]), testing::ElementsAre(4, 5));
}

TEST(BulkFilesTest, AnyDamageIsRefused) {
  std::mt19937_64 random(4);
  TempFolder folder;
  const std::string path = Write(folder / "bulk", 0, 20, 5000, random).front();
  const std::string ids_path = std::filesystem::path(path).replace_extension(".ids");
  const std::string segment = ReadFile(path), ids = ReadFile(ids_path);
  auto write = [](const std::string& to, const std::string& bytes) {
    std::filesystem::remove(to);
    std::ofstream(to, std::ios::binary) << bytes;
  };
  for (int round = 0; round < 1000 / kSlow; ++round) {
    for (const bool of_ids : {true, false}) {
      std::string bad = of_ids ? ids : segment;
      if (round % 5 == 0) {
        bad.resize(random() % bad.size());
      } else if (round % 5 == 1) {
        bad.append(1 + random() % 9, '\0');
      } else {
        bad[random() % bad.size()] ^= static_cast<char>(1 << random() % 8);
      }
      write(path, of_ids ? segment : bad);
      write(ids_path, of_ids ? bad : ids);
      const absl::Status status = OpenBulkSegment(path).status();
      ASSERT_EQ(status.code(), absl::StatusCode::kDataLoss) << status << " " << of_ids << round;
    }
  }
  write(path, segment);
  std::filesystem::remove(ids_path);
  EXPECT_FALSE(OpenBulkSegment(path).ok());
}

TEST(BulkFilesTest, LoadedIsAppended) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 6 / (kSlow > 1 ? 3 : 1); ++round) {
    TempFolder folder;
    auto store = OpenStore(folder / "store", round % 2 ? 300 : 1 << 20);
    NaiveStore naive;
    int next = 0;
    for (int step = 0; step < 6; ++step) {
      // Some that are appended, then loads that overlap with them and with the loads before.
      for (int i = 0; i < 10; ++i) {
        const std::string id = std::to_string(random() % (next + 10));
        const Tokens tokens = RandomTokens(random, 1 + random() % 60, 4);
        ASSERT_EQ(*store->Append(kNs, id, tokens), naive.Append(kNs, id, tokens));
      }
      const std::string bulk = folder / ("bulk" + std::to_string(step));
      Write(bulk, next, 20, 5000, random,
            &naive);  // one segment, as the order of several is that of their names
      const std::vector<std::string> paths = *ListBulkSegments(bulk);
      for (const std::string& path : paths) {
        const auto loaded = store->LoadSegment(path);
        ASSERT_TRUE(loaded.ok()) << loaded.status();
        EXPECT_EQ(loaded->stored + loaded->unchanged, 20u);
        const auto again = store->LoadSegment(path);
        ASSERT_TRUE(again.ok()) << again.status();
        EXPECT_EQ(again->unchanged, 20u);
        EXPECT_EQ(again->stored + again->tokens, 0u);
      }
      ASSERT_TRUE(*store->DeleteDocument(kNs, std::to_string(next + 3)));
      naive.DeleteDocument(kNs, std::to_string(next + 3));
      next += 12;
      ExpectSame(*store, naive, random);
      if (step % 2 == 0) continue;
      store.reset();
      store = OpenStore(folder / "store", 300);
      ExpectSame(*store, naive, random);
    }
    EXPECT_EQ(store->GetStats().documents, naive.Documents(kNs).size());
    EXPECT_EQ(*store->DeleteTenant(kNs.tenant), naive.DeleteTenant(kNs.tenant));
    EXPECT_TRUE(FilesUnder(folder / "store/segments").empty());
  }
}

TEST(BulkFilesTest, LoadedDocumentsNeverExpire) {
  TempFolder folder;
  BulkWriter writer(folder / "bulk", kNs, 100);
  ASSERT_TRUE(writer.Add("a", Tokens{1, 2, 3}).ok());
  ASSERT_TRUE(writer.Add("b", Tokens{4, 5, 6}).ok());
  ASSERT_TRUE(writer.Finish().ok());
  auto store = *SuffixStore::Open({.path = folder / "store", .clock = [] { return uint64_t{100}; }});
  ASSERT_TRUE(store->Append(kNs, "a", Tokens{1, 2, 3}, 1000).ok());
  ASSERT_TRUE(store->Append(kNs, "b", Tokens{4, 5, 7}, 1000).ok());
  const auto loaded = store->LoadSegment(ListBulkSegments(folder / "bulk")->front());
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->stored, 1u);
  EXPECT_EQ(loaded->unchanged, 1u);
  ASSERT_TRUE(store->CheckIntegrity().ok()) << store->CheckIntegrity();
  store.reset();
  store = *SuffixStore::Open({.path = folder / "store", .clock = [] { return uint64_t{2000}; }});
  EXPECT_EQ(*store->RemoveExpired(), 0u);
  EXPECT_EQ(store->GetStats().documents, 2u);
}

TEST(BulkFilesTest, ARefusedLoadChangesNothing) {
  std::mt19937_64 random(6);
  TempFolder folder;
  const std::string path = Write(folder / "bulk", 0, 20, 5000, random).front();
  NaiveStore naive;
  auto store = *SuffixStore::Open({.path = folder / "store", .max_bytes_per_tenant = 1000});
  ASSERT_TRUE(store->Append(kNs, "3", Tokens(20, 1)).ok());
  naive.Append(kNs, "3", Tokens(20, 1));
  const absl::Status full = store->LoadSegment(path).status();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(full.message()), HasSubstr("bytes, limit is 1000"));
  ExpectSame(*store, naive, random);
  store.reset();
  store = *SuffixStore::Open({.path = folder / "store", .min_free_bytes = uint64_t{1} << 62});
  EXPECT_EQ(store->LoadSegment(path).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(store->LoadSegment(folder / "nowhere.seg").ok());
  EXPECT_TRUE(FilesUnder(folder / "store/segments").empty());
  ExpectSame(*store, naive, random);
}

TEST(BulkFilesTest, DraftsGoOnWhileSegmentsAreLoaded) {
  std::mt19937_64 random(7);
  TempFolder folder;
  const std::vector<std::string> paths = Write(folder / "bulk", 0, 400 / kSlow, 1000, random);
  auto store = OpenStore(folder / "store", 1000);
  ASSERT_TRUE(store->Append(kNs, "mine", Tokens{100, 101, 102}).ok());
  std::atomic<bool> stop{false};
  std::thread reader([&] {
    while (!stop) {
      ASSERT_EQ(store->Draft(kNs, Tokens{100, 101}, {})->nodes,
                (std::vector<Trie::Node>{{102, -1, 1, 1, 2}}));
      ASSERT_TRUE(store->Checkpoint(folder / "copy").ok());
      std::filesystem::remove_all(folder / "copy");
    }
  });
  for (const std::string& path : paths) EXPECT_TRUE(store->LoadSegment(path).ok());
  stop = true;
  reader.join();
  EXPECT_EQ(store->GetStats().documents, 400u / kSlow + 1);
  EXPECT_TRUE(store->CheckIntegrity().ok()) << store->CheckIntegrity();
}

}  // namespace
}  // namespace clamor::retrieval
