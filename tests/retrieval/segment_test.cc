#include "retrieval/segment.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <random>

#include "gtest/gtest.h"
#include "retrieval/mapped_files.h"
#include "tests/retrieval/naive_store.h"
#include "tests/retrieval/seal_segment_file.h"
#include "tests/retrieval/test_support.h"

namespace clamor::retrieval {
namespace {

const std::atomic<bool> kNotCancelled{false};

std::shared_ptr<const Segment> BuildSegment(const std::vector<Tokens>& documents, uint64_t first_number = 1,
                                            uint64_t step = 1, std::string path = "") {
  std::vector<Segment::Source> sources;
  for (const Tokens& tokens : documents) sources.push_back({first_number + step * sources.size(), tokens});
  auto segment = Segment::Build("prefix", sources, std::move(path));
  EXPECT_TRUE(segment.ok()) << segment.status();
  return *segment;
}

// Compares with the naive store for one context; the documents have ids "0", "1"...
void CheckDraft(const Segment& segment, const Segment::DeadSet* dead, const NaiveStore& naive,
                const Tokens& context, const DraftOptions& options) {
  Parts parts = {{.segment = std::shared_ptr<const Segment>(&segment, [](const Segment*) {}),
                  .dead = dead ? std::make_shared<Segment::DeadSet>(*dead) : nullptr}};
  ASSERT_EQ(Draft(parts, context, options), naive.Draft({"t", "f"}, context, options));
}

// How a segment is read depends on where it is.
enum class Place { kHeap, kKeptFile, kPageCache };

class PlacedSegmentTest : public ::testing::TestWithParam<Place> {
 protected:
  void SetUp() override {
    MappedFiles::OfProcess().SetLimit(GetParam() == Place::kPageCache ? 1 : UINT64_MAX);
  }
  void TearDown() override { MappedFiles::OfProcess().SetLimit(UINT64_MAX); }

  std::shared_ptr<const Segment> Build(const std::vector<Tokens>& documents) {
    std::filesystem::remove(folder_ / "a.seg");
    return BuildSegment(documents, 1, 1, GetParam() == Place::kHeap ? "" : folder_ / "a.seg");
  }

 private:
  TempFolder folder_;
};

INSTANTIATE_TEST_SUITE_P(, PlacedSegmentTest,
                         ::testing::Values(Place::kHeap, Place::kKeptFile, Place::kPageCache));

TEST(SegmentTest, AllSmallTextsAndContexts) {
  // All pairs of documents of up to 4 tokens over {0, 1}, all contexts of up to 3.
  std::vector<Tokens> all = {{}};
  for (size_t i = 0; all[i].size() < 4; ++i) {
    for (uint32_t token : {0u, 1u}) {
      all.push_back(all[i]);
      all.back().push_back(token);
    }
  }
  DraftOptions options;
  options.min_match = 1;
  for (const Tokens& a : all) {
    for (const Tokens& b : all) {
      std::vector<Tokens> documents;
      for (const Tokens& tokens : {a, b}) {
        if (!tokens.empty()) documents.push_back(tokens);
      }
      if (documents.empty()) continue;
      NaiveStore naive;
      for (size_t i = 0; i < documents.size(); ++i) naive.Append({"t", "f"}, std::to_string(i), documents[i]);
      const auto segment = BuildSegment(documents);
      ASSERT_TRUE(segment->CheckIntegrity().ok()) << segment->CheckIntegrity();
      for (const Tokens& context : all) {
        if (context.size() > 3) break;
        CheckDraft(*segment, nullptr, naive, context, options);
      }
    }
  }
}

TEST_P(PlacedSegmentTest, RandomTextsWithDeadDocuments) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 200 / kSlow; ++round) {
    const uint32_t alphabet = 1 + random() % 5;
    std::vector<Tokens> documents(1 + random() % 20);
    for (Tokens& tokens : documents) tokens = RandomTokens(random, 1 + random() % 40, alphabet);
    const auto segment = Build(documents);
    ASSERT_TRUE(segment->CheckIntegrity().ok()) << segment->CheckIntegrity();
    Segment::DeadSet dead(documents.size());
    NaiveStore naive;
    for (size_t i = 0; i < documents.size(); ++i) {
      dead[i] = random() % 3 == 0;
      if (!dead[i]) naive.Append({"t", "f"}, std::to_string(i), documents[i]);
    }
    for (int query = 0; query < 50; ++query) {
      CheckDraft(*segment, &dead, naive, RandomTokens(random, random() % 14, alphabet),
                 RandomOptions(random));
    }
  }
}

TEST_P(PlacedSegmentTest, SignsOfFewTokensAndTokensThatAreNowhere) {
  // Codes are so wide that a sign has three or four of them; few tokens make long matches, and some of the
  // contexts' are not in the dictionary: below, between and above those that are.
  std::mt19937_64 random(8);
  for (const uint32_t different : {5'000u, 40'000u, 140'000u}) {
    std::vector<Tokens> documents(1);
    for (uint32_t i = 0; i < different; ++i) documents[0].push_back(1'000 + 2 * i);
    auto few = [&](size_t length, uint32_t odd) {
      Tokens tokens = RandomTokens(random, length, 3);
      for (uint32_t& token : tokens) {
        token = 1'000 + 2 * (token * (different / 3));
        if (odd > 0 && random() % odd == 0)
          token = random() % 3 == 0 ? token + 1 : random() % 2 ? 7 : kTokenLimit - 1;
      }
      return tokens;
    };
    for (int i = 0; i < 60; ++i) documents.push_back(few(1 + random() % 60, 0));
    const auto segment = Build(documents);
    ASSERT_TRUE(segment->CheckIntegrity().ok()) << segment->CheckIntegrity();
    NaiveStore naive;
    for (size_t i = 0; i < documents.size(); ++i) naive.Append({"t", "f"}, std::to_string(i), documents[i]);
    for (int query = 0; query < 100 / kSlow; ++query)
      CheckDraft(*segment, nullptr, naive, few(1 + random() % 14, query % 2 ? 6 : 0), RandomOptions(random));
  }
}

TEST_P(PlacedSegmentTest, ManyPlacesUnderOneSuffixPassOverPeaks) {
  // One suffix has tens of thousands of places, far more than a peak covers; many of the newest are dead.
  std::mt19937_64 random(4);
  std::vector<Tokens> documents;
  for (int i = 0; i < 400; ++i) documents.push_back(RandomTokens(random, 100, 2));
  const auto segment = Build(documents);
  Segment::DeadSet dead(documents.size());
  NaiveStore naive;
  for (size_t i = 0; i < documents.size(); ++i) {
    dead[i] = i > 300 && i % 7 != 0;
    if (!dead[i]) naive.Append({"t", "f"}, std::to_string(i), documents[i]);
  }
  for (int query = 0; query < 200 / kSlow; ++query) {
    DraftOptions options = RandomOptions(random);
    options.min_match = 1;
    options.max_match = 1 + query % 3;
    CheckDraft(*segment, &dead, naive, RandomTokens(random, 4, 2), options);
  }
}

TEST(SegmentStorageTest, ReadsTheSameEverywhere) {
  TempFolder folder;
  MappedFiles::OfProcess().SetLimit(1 << 20);  // 40 kB are not small
  SegmentStorage heap = SegmentStorage::OnHeap(40'000);
  auto file = SegmentStorage::CreateFile(folder / "a", 40'000);
  ASSERT_TRUE(file.ok()) << file.status();
  auto words = [](const SegmentStorage& storage) {
    return std::span(reinterpret_cast<uint32_t*>(storage.data()), storage.size() / 4);
  };
  for (uint32_t i = 0; i < 10'000; ++i) words(heap)[i] = words(*file)[i] = i * i;
  ASSERT_TRUE(file->Seal().ok());
  file->Serve({.newest = 1, .index_bytes = 0, .piece_bytes = {40'000, 0}});
  std::vector<std::byte> buffer(40'000);
  for (const auto& [at, count] : {std::pair(0, 1), {1'023, 2}, {9'999, 1}, {17, 9'000}, {5, 0}}) {
    for (const SegmentStorage* storage : {&heap, &*file}) {
      for (const uint64_t limit : {uint64_t{1} << 20, uint64_t{1}}) {
        MappedFiles::OfProcess().SetLimit(limit);
        const auto part = std::as_bytes(words(*storage).subspan(at, count));
        const std::byte* read = storage->Read(0, part, buffer.data());
        EXPECT_EQ(read == part.data(), storage == &heap || limit != 1);
        EXPECT_EQ(std::memcmp(read, &words(heap)[at], part.size()), 0);
      }
    }
  }
  ASSERT_EQ(truncate((folder / "a").c_str(), 20'000), 0);  // as a disk that does not answer
  file->Read(0, std::as_bytes(words(*file).subspan(4'999, 2)), buffer.data());
  EXPECT_EQ(std::vector(buffer.begin(), buffer.begin() + 8), std::vector<std::byte>(8));
  MappedFiles::OfProcess().SetLimit(UINT64_MAX);
}

TEST_P(PlacedSegmentTest, MatchesStopAtTheLimitOfSortedTokens) {
  // Longer repetitions than kMaxMatch: the order beyond it is by age.
  Tokens period;
  for (uint32_t i = 0; i < 1000; ++i) period.push_back(i % 3);
  NaiveStore naive;
  naive.Append({"t", "f"}, "0", period);
  naive.Append({"t", "f"}, "1", Tokens(700, 1));
  const auto segment = Build({period, Tokens(700, 1)});
  ASSERT_TRUE(segment->CheckIntegrity().ok()) << segment->CheckIntegrity();
  DraftOptions options;
  options.max_match = kMaxMatch;
  options.max_occurrences = 20;
  CheckDraft(*segment, nullptr, naive, period, options);
  CheckDraft(*segment, nullptr, naive, Tokens(500, 1), options);
  CheckDraft(*segment, nullptr, naive, Tokens(90, 1), options);
}

TEST(SegmentTest, AMergeIsTheSegmentOfAllLiveDocuments) {
  std::mt19937_64 random(5);
  TempFolder folder;
  for (int round = 0; round < 100 / kSlow; ++round) {
    const uint32_t alphabet = 1 + random() % 6;
    const size_t ways = 1 + random() % 6;
    std::vector<std::shared_ptr<const Segment>> segments;
    std::vector<Segment::DeadSet> dead(ways);
    std::map<uint64_t, Tokens> live;
    for (size_t way = 0; way < ways; ++way) {  // numbers interleave
      std::vector<Tokens> documents(1 + random() % 6);
      for (size_t i = 0; i < documents.size(); ++i) {
        documents[i] = RandomTokens(random, 1 + random() % 50, alphabet);
        dead[way].push_back(random() % 4 == 0);
        if (!dead[way].back()) live[1 + way + ways * i] = documents[i];
      }
      const std::string path = random() % 2 ? folder / (std::to_string(way) + ".seg") : "";
      segments.push_back(BuildSegment(documents, 1 + way, ways, path));
    }
    std::vector<Segment::Input> inputs;
    for (size_t way = 0; way < ways; ++way) inputs.push_back({segments[way].get(), &dead[way]});
    const std::string path = round % 2 ? folder / "merged.seg" : "";
    const auto merged = Segment::Merge("prefix", inputs, path, kNotCancelled);
    ASSERT_TRUE(merged.ok()) << merged.status();
    ASSERT_TRUE((*merged)->CheckIntegrity().ok()) << (*merged)->CheckIntegrity();
    ASSERT_EQ((*merged)->documents().size(), live.size());
    auto expected = live.begin();
    for (const Segment::Document& document : (*merged)->documents()) {
      EXPECT_EQ(document.number, expected->first);
      EXPECT_EQ((*merged)->Text(document), expected->second);
      ++expected;
    }
    if (path.empty()) continue;
    const auto opened = Segment::Open(path);
    ASSERT_TRUE(opened.ok()) << opened.status();
    EXPECT_TRUE((*opened)->CheckIntegrity().ok());
    EXPECT_EQ((*opened)->prefix(), "prefix");
    EXPECT_EQ((*opened)->tokens(), (*merged)->tokens());
  }
}

TEST(SegmentTest, ACancelledMergeLeavesNoFile) {
  TempFolder folder;
  std::filesystem::create_directory(folder / "s");
  const auto segment = BuildSegment({Tokens(100, 1)});
  const std::atomic<bool> cancelled{true};
  const std::vector<Segment::Input> inputs = {{segment.get(), nullptr}};
  const auto merged = Segment::Merge("prefix", inputs, folder / "s/x.seg", cancelled);
  EXPECT_EQ(merged.status().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(FilesUnder(folder / "s").empty());
}

TEST(SegmentTest, CannotBeWrittenWhereThereIsNoFolder) {
  const Tokens tokens = {1, 2, 3};
  const std::vector<Segment::Source> sources = {{1, tokens}};
  EXPECT_EQ(Segment::Build("p", sources, "/nonexistent/x.seg").status().code(), absl::StatusCode::kNotFound);
}

TEST(SegmentTest, AnyDamageIsRefusedOrHarmless) {
  std::mt19937_64 random(6);
  TempFolder folder;
  std::vector<Tokens> documents;
  for (int i = 0; i < 30; ++i) documents.push_back(RandomTokens(random, 1 + random() % 60, 4));
  const std::string path = folder / "good.seg", bad_path = folder / "bad.seg";
  BuildSegment(documents, 1, 1, path);
  const std::string good = ReadFile(path);
  int opened = 0;
  for (int round = 0; round < 3000 / kSlow; ++round) {
    std::string bad = good;
    if (round % 5 == 0) bad.resize(random() % bad.size());
    for (size_t flips = 1 + random() % 4; flips > 0 && !bad.empty(); --flips) {
      bad[random() % bad.size()] ^= static_cast<char>(1 << random() % 8);
    }
    std::filesystem::remove(bad_path);  // a new file: truncating waits for the disk on some file systems
    std::ofstream(bad_path, std::ios::binary) << bad;
    const auto segment = Segment::Open(bad_path);
    if (!segment.ok()) {
      EXPECT_EQ(segment.status().code(), absl::StatusCode::kDataLoss) << segment.status();
      continue;
    }
    ++opened;
    if (bad == good) continue;
    EXPECT_EQ((*segment)->CheckIntegrity().code(), absl::StatusCode::kDataLoss);
    const std::vector<Segment::Input> inputs = {{segment->get(), nullptr}};
    EXPECT_EQ(Segment::Merge("prefix", inputs, "", kNotCancelled).status().code(),
              absl::StatusCode::kDataLoss);
    const Parts parts = {{.segment = *segment, .dead = nullptr}};
    for (int query = 0; query < 10; ++query) {
      const Trie trie = Draft(parts, RandomTokens(random, 8, 4), RandomOptions(random));
      for (const Trie::Node& node : trie.nodes) EXPECT_LT(node.token, kTokenLimit);
    }
  }
  EXPECT_GT(opened, 0);
}

TEST(SegmentTest, ADocumentOfEndMarksIsNotMerged) {
  TempFolder folder;
  const std::string path = folder / "a.seg";
  BuildSegment({{1, 2, 3}}, 1, 1, path);
  std::string bytes = ReadFile(path);
  const size_t text = bytes.size() - 4 - 2 * 4 - TokenText::Bytes(4, 5);  // before order and peaks
  std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(text), 2, '\xff');
  SealSegmentFile(bytes);
  std::ofstream(path, std::ios::binary) << bytes;
  const auto segment = Segment::Open(path);
  ASSERT_TRUE(segment.ok()) << segment.status();
  EXPECT_EQ((*segment)->Text((*segment)->documents()[0]), Tokens(3, kEndMark));
  const std::vector<Segment::Input> inputs = {{segment->get(), nullptr}};
  const absl::Status merged = Segment::Merge("prefix", inputs, "", kNotCancelled).status();
  EXPECT_EQ(merged.code(), absl::StatusCode::kDataLoss) << merged;
  EXPECT_EQ((*segment)->CheckIntegrity().code(), absl::StatusCode::kDataLoss);
}

TEST(SegmentTest, HostileFilesAreRefusedOrHarmless) {
  // As above, but with checksums that fit.
  std::mt19937_64 random(7);
  TempFolder folder;
  std::vector<Tokens> documents;
  for (int i = 0; i < 40; ++i) documents.push_back(RandomTokens(random, 1 + random() % 60, 4));
  const std::string path = folder / "good.seg", bad_path = folder / "bad.seg";
  BuildSegment(documents, 1, 1, path);
  const std::string good = ReadFile(path);
  std::string sealed = good;
  SealSegmentFile(sealed);
  ASSERT_EQ(sealed, good);
  int opened = 0;
  for (int round = 0; round < 6000 / kSlow; ++round) {
    std::string bad = good;
    for (size_t changes = 1 + random() % 3; changes > 0; --changes) {
      // A word of the header, of the table or of anything, a little more or less, or anything.
      const size_t span = random() % 3 == 0 ? 6 : random() % 2 ? 260 : bad.size() / 4;
      const size_t at = random() % span * 4;
      uint32_t word;
      std::memcpy(&word, bad.data() + at, 4);
      word = random() % 2 ? word + static_cast<uint32_t>(random() % 5) - 2
                          : static_cast<uint32_t>(random() >> random() % 64);
      std::memcpy(bad.data() + at, &word, 4);
    }
    if (round % 7 == 0) bad.resize(random() % bad.size());
    if (round % 7 == 1) bad.append(random() % 100, '\0');
    SealSegmentFile(bad);
    std::filesystem::remove(bad_path);
    std::ofstream(bad_path, std::ios::binary) << bad;
    const auto segment = Segment::Open(bad_path);
    if (!segment.ok()) {
      EXPECT_EQ(segment.status().code(), absl::StatusCode::kDataLoss) << segment.status();
      continue;
    }
    ++opened;
    // Other tokens may make another good segment; anything else is found.
    const absl::Status sound = (*segment)->CheckIntegrity();
    EXPECT_TRUE(sound.ok() || absl::IsDataLoss(sound)) << sound;
    const std::vector<Segment::Input> inputs = {{segment->get(), nullptr}};
    const absl::Status merged = Segment::Merge("prefix", inputs, "", kNotCancelled).status();
    EXPECT_TRUE(merged.ok() || absl::IsDataLoss(merged)) << merged;
    const Parts parts = {{.segment = *segment, .dead = nullptr}};
    for (int query = 0; query < 10; ++query) {
      const Trie trie = Draft(parts, RandomTokens(random, 8, 4), RandomOptions(random));
      for (const Trie::Node& node : trie.nodes) EXPECT_LT(node.token, kTokenLimit);
    }
  }
  EXPECT_GT(opened, 100 / kSlow);
}

}  // namespace
}  // namespace clamor::retrieval
