#include "retrieval/compactor.h"

#include <chrono>
#include <filesystem>
#include <numeric>
#include <random>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/retrieval/naive_store.h"
#include "tests/retrieval/test_support.h"

namespace clamor::retrieval {
namespace {

constexpr char kPrefix[] = "prefix";

std::shared_ptr<const Segment> OneDocument(uint64_t number, const Tokens& tokens) {
  const std::vector<Segment::Source> sources = {{number, tokens}};
  return *Segment::Build(kPrefix, sources, "");
}

Parts PartsOfSizes(const std::vector<size_t>& sizes) {
  Parts parts;
  for (const size_t size : sizes) {
    Tokens tokens(size);
    std::iota(tokens.begin(), tokens.end(), 0u);
    parts.push_back({.segment = OneDocument(1, tokens), .dead = nullptr});
  }
  return parts;
}

TEST(PickMergeTest, MergesTheSmallestOfLikeSize) {
  using testing::IsEmpty;
  using testing::UnorderedElementsAre;
  EXPECT_THAT(PickMerge({}), IsEmpty());
  EXPECT_THAT(PickMerge(PartsOfSizes({100})), IsEmpty());
  EXPECT_THAT(PickMerge(PartsOfSizes({100, 100, 100})), IsEmpty());
  EXPECT_THAT(PickMerge(PartsOfSizes({100, 100, 100, 100})), UnorderedElementsAre(0, 1, 2, 3));
  EXPECT_THAT(PickMerge(PartsOfSizes({5000, 100, 110, 90, 105, 95})), UnorderedElementsAre(1, 2, 3, 4, 5));
  EXPECT_THAT(PickMerge(PartsOfSizes({100, 400, 1600, 6400})), IsEmpty());
  EXPECT_THAT(PickMerge(PartsOfSizes({400, 10, 400, 400, 20, 400})), UnorderedElementsAre(0, 2, 3, 5))
      << "much smaller ones do not sit through it";
}

TEST(PickMergeTest, MakesFullSegmentsOfTwo) {
  using testing::IsEmpty;
  using testing::UnorderedElementsAre;
  // With end marks, each of them has two tokens more.
  EXPECT_THAT(PickMerge(PartsOfSizes({498, 498, 10}), 1000), UnorderedElementsAre(0, 1));
  EXPECT_THAT(PickMerge(PartsOfSizes({298, 598, 200}), 1000), UnorderedElementsAre(0, 1));
  EXPECT_THAT(PickMerge(PartsOfSizes({499, 498}), 1000), IsEmpty()) << "more than one may have";
  EXPECT_THAT(PickMerge(PartsOfSizes({373, 372}), 1000), IsEmpty()) << "there will be others to merge with";
  EXPECT_THAT(PickMerge(PartsOfSizes({373, 373}), 1000), UnorderedElementsAre(0, 1));
  EXPECT_THAT(PickMerge(PartsOfSizes({798, 190}), 1000), IsEmpty())
      << "most of it would be copied for little";
}

TEST(PickMergeTest, RewritesWhatIsAQuarterDead) {
  Parts parts = PartsOfSizes({100, 1000});
  parts[1].dead_tokens = 249;
  EXPECT_TRUE(PickMerge(parts).empty());
  parts[1].dead_tokens = 250;
  EXPECT_THAT(PickMerge(parts), testing::ElementsAre(1));
}

TEST(PickMergeTest, SettlesWithFewParts) {
  // Whatever the sizes, merging until nothing is picked leaves a number of parts that grows with the
  // logarithm.
  std::mt19937_64 random(1);
  for (int round = 0; round < 20; ++round) {
    Parts parts;
    for (int append = 0; append < 200 / kSlow; ++append) {
      parts.push_back(PartsOfSizes({1 + (random() % 1000 >> random() % 10)}).front());
      for (std::vector<size_t> picked = PickMerge(parts); !picked.empty(); picked = PickMerge(parts)) {
        size_t total = 0;
        for (const size_t i : picked) total += parts[i].segment->tokens();
        std::ranges::sort(picked, std::greater());
        for (const size_t i : picked) parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(i));
        parts.push_back(PartsOfSizes({total}).front());
      }
      ASSERT_LE(parts.size(), 24u);
    }
  }
}

class CompactorTest : public testing::Test {
 protected:
  CompactorTest() { std::filesystem::create_directory(folder_ / "s"); }

  TempFolder folder_;
};

// With a tiny limit, so that everything is moved into files again and again while it is read; and all but the
// smallest merges either by the one thread or by the other.
class MergingTest : public CompactorTest, public testing::WithParamInterface<uint64_t> {};
INSTANTIATE_TEST_SUITE_P(LargeTokens, MergingTest, testing::Values(kLargeTokens, 400));

TEST_P(MergingTest, DraftsStayTheSame) {
  Compactor compactor(folder_ / "s", 0, 300, GetParam());
  auto index = std::make_shared<NamespaceIndex>(kPrefix, compactor.hot_tokens());
  NaiveStore naive;
  const Namespace ns{"t", "f"};
  std::map<std::string, uint64_t> numbers;
  std::mt19937_64 random(2);
  for (uint64_t number = 1; number <= 400u / kSlow; ++number) {
    const std::string id = std::to_string(random() % 60);
    std::vector<uint64_t> removed;
    if (numbers.contains(id)) removed.push_back(numbers[id]);
    if (random() % 4 == 0) {
      naive.DeleteDocument(ns, id);
      index->Publish({}, removed);
      numbers.erase(id);
    } else {
      const Tokens tokens = RandomTokens(random, 1 + random() % 40, 3);
      if (naive.Append(ns, id, tokens)) {
        index->Publish({.segment = OneDocument(number, tokens)}, removed);
        numbers[id] = number;
      }
    }
    compactor.Schedule(index);
    ASSERT_TRUE(compactor.WaitForRoom(index).ok());
    const Tokens context = RandomTokens(random, 12, 3);
    const DraftOptions options = RandomOptions(random);
    ASSERT_EQ(Draft(*index->snapshot(), context, options), naive.Draft(ns, context, options));
  }
  compactor.WaitUntilIdle();
  EXPECT_TRUE(index->CheckIntegrity().ok()) << index->CheckIntegrity();
  EXPECT_LE(compactor.hot_tokens(), 300);
  // The files are those of the index, no more.
  size_t in_files = 0;
  for (const Part& part : *index->snapshot()) in_files += !part.segment->path().empty();
  EXPECT_GT(in_files, 0u);
  EXPECT_EQ(FilesUnder(folder_ / "s").size(), in_files);
}

TEST_F(CompactorTest, ALargeMergeOfAClosedIndexLeavesNoFile) {
  for (int round = 0; round < 20 / (kSlow > 1 ? 4 : 1); ++round) {
    Compactor compactor(folder_ / "s", 0, 300, 500);
    auto index = std::make_shared<NamespaceIndex>(kPrefix, compactor.hot_tokens());
    std::mt19937_64 random(round);
    for (uint64_t number = 1; number <= 40; ++number) {
      index->Publish({.segment = OneDocument(number, RandomTokens(random, 60, 3))}, {});
      compactor.Schedule(index);
    }
    if (round % 2) std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
    ASSERT_TRUE(index->Close().ok());
    EXPECT_TRUE(FilesUnder(folder_ / "s", ".seg").empty());
    compactor.WaitUntilIdle();
    EXPECT_TRUE(FilesUnder(folder_ / "s").empty());
  }
}

TEST_F(CompactorTest, LargeMergesGoIntoFiles) {
  Compactor compactor(folder_ / "s", 7, 100 << 20);
  auto index = std::make_shared<NamespaceIndex>(kPrefix, compactor.hot_tokens());
  std::mt19937_64 random(3);
  for (uint64_t number = 1; number <= 4; ++number) {
    index->Publish({.segment = OneDocument(number, RandomTokens(random, kFileTokens / 4, 50))}, {});
    compactor.Schedule(index);
  }
  compactor.WaitUntilIdle();
  ASSERT_EQ(index->snapshot()->size(), 1u);
  EXPECT_EQ(index->snapshot()->front().segment->path(), folder_ / "s/000000000007.seg");
  EXPECT_EQ(compactor.hot_tokens(), 0);
  ASSERT_TRUE(index->Close().ok());
  EXPECT_TRUE(FilesUnder(folder_ / "s").empty());
  EXPECT_TRUE(index->snapshot()->empty());
}

TEST_F(CompactorTest, AnIndexOfDeadDocumentsBecomesEmpty) {
  Compactor compactor(folder_ / "s", 0, 10);
  auto index = std::make_shared<NamespaceIndex>(kPrefix, compactor.hot_tokens());
  index->Publish({.segment = OneDocument(1, Tokens(100, 1))}, {});
  compactor.Schedule(index);
  compactor.WaitUntilIdle();
  EXPECT_EQ(FilesUnder(folder_ / "s").size(), 1u);
  const uint64_t number = 1;
  index->Publish({}, {&number, 1});
  compactor.Schedule(index);
  compactor.WaitUntilIdle();
  EXPECT_TRUE(index->snapshot()->empty());
  EXPECT_TRUE(FilesUnder(folder_ / "s").empty());
}

TEST_F(CompactorTest, TellsWhoAddsWhenFilesCannotBeWritten) {
  Compactor compactor(folder_ / "missing", 0, 10);
  auto index = std::make_shared<NamespaceIndex>(kPrefix, compactor.hot_tokens());
  EXPECT_TRUE(compactor.WaitForRoom(index).ok());
  index->Publish({.segment = OneDocument(1, Tokens(100, 1))}, {});
  compactor.Schedule(index);
  compactor.WaitUntilIdle();
  EXPECT_EQ(compactor.WaitForRoom(index).code(), absl::StatusCode::kNotFound);
  // Files can be written again: who asks for room gets it, with nothing else to set off a merge.
  std::filesystem::create_directory(folder_ / "missing");
  EXPECT_TRUE(compactor.WaitForRoom(index).ok());
  EXPECT_EQ(FilesUnder(folder_ / "missing").size(), 1u);
}

TEST_F(CompactorTest, WhatFailsOfAMergeThatBeganEarlierIsNotTold) {
  std::filesystem::create_directory(folder_ / "s/000000000000.seg.tmp");  // the first file fails
  Compactor compactor(folder_ / "s", 0, 100);
  auto small = std::make_shared<NamespaceIndex>("small", compactor.hot_tokens());
  auto large = std::make_shared<NamespaceIndex>(kPrefix, compactor.hot_tokens());
  compactor.Schedule(large);
  compactor.WaitUntilIdle();
  // A run merges the small ones, finds too much on the heap, and waits for us before it writes a file.
  std::unique_lock held(large->merge_mutex());
  large->Publish({.segment = OneDocument(1, Tokens(1000, 1))}, {});
  for (uint64_t number = 2; number < 6; ++number)
    small->Publish({.segment = OneDocument(number, Tokens(10, 1))}, {});
  compactor.Schedule(small);
  while (small->snapshot()->size() > 1) std::this_thread::yield();
  absl::Status room = absl::UnknownError("not told yet");
  std::thread adds([&] { room = compactor.WaitForRoom(large); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // so that it waits, most likely
  held.unlock();
  adds.join();
  EXPECT_TRUE(room.ok()) << room;
  EXPECT_TRUE(std::filesystem::is_regular_file(folder_ / "s/000000000001.seg"));
}

TEST_F(CompactorTest, WhoAddsManyWaitsForMergesThatAreDue) {
  Compactor compactor(folder_ / "s", 0, 1 << 20);
  auto index = std::make_shared<NamespaceIndex>(kPrefix, compactor.hot_tokens());
  std::unique_lock held(index->merge_mutex());  // so that none comes to anything yet
  uint64_t number = 1;
  auto add = [&](size_t parts) {
    while (index->snapshot()->size() < parts)
      index->Publish({.segment = OneDocument(number++, Tokens(10, 1))}, {});
    compactor.Schedule(index);
  };
  add(16);
  EXPECT_TRUE(compactor.WaitForRoom(index).ok()) << "a few are no reason to wait";
  add(17);
  size_t left = 0;
  std::thread adds([&] {
    EXPECT_TRUE(compactor.WaitForRoom(index).ok());
    left = index->snapshot()->size();
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // so that it waits, most likely
  held.unlock();
  adds.join();
  EXPECT_LE(left, 4u);
}

TEST_F(CompactorTest, DocumentsDroppedDuringAMergeStayDropped) {
  // As the compactor does it, with the drop in between.
  std::atomic<int64_t> hot{0};
  NamespaceIndex index(kPrefix, hot);
  for (uint64_t number = 1; number <= 3; ++number)
    index.Publish({.segment = OneDocument(number, Tokens(10, number))}, {});
  const Parts inputs = *index.snapshot();
  std::vector<Segment::Input> segments;
  for (const Part& part : inputs) segments.push_back({part.segment.get(), nullptr});
  const std::atomic<bool> not_cancelled{false};
  auto merged = Segment::Merge(kPrefix, segments, "", not_cancelled);
  ASSERT_TRUE(merged.ok());
  const uint64_t dropped = 2;
  index.Publish({.segment = OneDocument(4, Tokens(10, 4))}, {&dropped, 1});
  ASSERT_TRUE(index.Replace(inputs, *merged));
  EXPECT_EQ(index.snapshot()->size(), 2u);
  EXPECT_TRUE(index.CheckIntegrity().ok());
  for (uint32_t token = 1; token <= 4; ++token) {
    const Trie trie = Draft(*index.snapshot(), Tokens(3, token), {});
    EXPECT_EQ(trie.nodes.empty(), token == 2) << token;
  }
}

}  // namespace
}  // namespace clamor::retrieval
