// What is in the folder: segment files that come and go, what a deleted tenant leaves, copies.
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "gtest/gtest.h"
#include "retrieval/suffix_store.h"
#include "tests/retrieval/naive_store.h"
#include "tests/retrieval/test_support.h"

namespace clamor::retrieval {
namespace {

const Namespace kNs{"tenant", "f00d"};

// Some documents, enough of them that segments go into files, and the store closed again.
NaiveStore FillStore(const std::string& path, std::mt19937_64& random) {
  NaiveStore naive;
  auto store = OpenStore(path, 2000);
  for (int i = 0; i < 60; ++i) {
    const Tokens tokens = RandomTokens(random, 100, 3);
    EXPECT_TRUE(*store->Append(kNs, std::to_string(i), tokens));
    naive.Append(kNs, std::to_string(i), tokens);
  }
  for (int i = 59; i >= 0; i -= 9) {  // the newest too
    EXPECT_TRUE(*store->DeleteDocument(kNs, std::to_string(i)));
    naive.DeleteDocument(kNs, std::to_string(i));
  }
  return naive;
}

void ExpectSame(const SuffixStore& store, const NaiveStore& naive, std::mt19937_64& random) {
  EXPECT_TRUE(store.CheckIntegrity().ok()) << store.CheckIntegrity();
  for (int query = 0; query < 50; ++query) {
    const Tokens context = RandomTokens(random, 12, 3);
    const DraftOptions options = RandomOptions(random);
    ASSERT_EQ(*store.Draft(kNs, context, options), naive.Draft(kNs, context, options));
  }
}

TEST(SuffixStoreFilesTest, SegmentFilesAreOnlyAnIndex) {
  std::mt19937_64 random(9);
  TempFolder folder;
  const NaiveStore naive = FillStore(folder / "store", random);
  const std::vector<std::filesystem::path> files = FilesUnder(folder / "store/segments");
  ASSERT_FALSE(files.empty());
  // Damaged, doubled, left unfinished, foreign, gone: the next start makes do.
  std::filesystem::copy_file(files[0], folder / "store/segments/000000999999.seg");
  std::ofstream(folder / "store/segments/000001000000.seg.tmp") << "half";
  std::ofstream(folder / "store/segments/notes.seg") << "foreign";
  ExpectSame(*OpenStore(folder / "store", 2000), naive, random);
  for (const auto& file : FilesUnder(folder / "store/segments")) std::filesystem::resize_file(file, 100);
  ExpectSame(*OpenStore(folder / "store", 2000), naive, random);
  for (const auto& file : FilesUnder(folder / "store/segments"))
    EXPECT_GT(std::filesystem::file_size(file), 100u);
  std::filesystem::remove_all(folder / "store/segments");
  ExpectSame(*OpenStore(folder / "store", 2000), naive, random);
}

TEST(SuffixStoreFilesTest, SegmentFilesOfDeletedDocumentsStayDead) {
  // A crash may leave a segment of a document that was deleted, or of a tenant.
  std::mt19937_64 random(10);
  TempFolder folder;
  NaiveStore naive = FillStore(folder / "store", random);
  std::filesystem::copy(folder / "store/segments", folder / "old");
  {
    auto store = OpenStore(folder / "store", 2000);
    for (const auto& [id, tokens] : naive.Documents(kNs)) ASSERT_TRUE(*store->DeleteDocument(kNs, id));
    naive.DeleteTenant(kNs.tenant);
  }
  for (const auto& file : FilesUnder(folder / "store/segments")) std::filesystem::remove(file);
  {  // Nothing is left, so that the numbers begin again: only the checksums tell old from new.
    auto store = OpenStore(folder / "store", 2000);
    const Tokens tokens = RandomTokens(random, 100, 3);
    ASSERT_TRUE(*store->Append(kNs, "new", tokens));
    naive.Append(kNs, "new", tokens);
  }
  for (const auto& file : FilesUnder(folder / "old")) {
    std::filesystem::copy_file(file, folder / "store/segments" / file.filename(),
                               std::filesystem::copy_options::skip_existing);
  }
  ExpectSame(*OpenStore(folder / "store", 2000), naive, random);
}

TEST(SuffixStoreFilesTest, AWrongBodyIsFoundByCheckIntegrity) {
  std::mt19937_64 random(11);
  TempFolder folder;
  FillStore(folder / "store", random);
  const auto file = FilesUnder(folder / "store/segments").front();
  {
    std::fstream out(file, std::ios::in | std::ios::out | std::ios::binary);
    out.seekp(static_cast<std::streamoff>(std::filesystem::file_size(file)) * 3 / 4);
    out << "damage damage damage";
  }
  auto store = OpenStore(folder / "store", 1u << 20);
  ASSERT_NE(store, nullptr);
  EXPECT_EQ(store->CheckIntegrity().code(), absl::StatusCode::kDataLoss);
  for (int query = 0; query < 50; ++query) {
    EXPECT_TRUE(store->Draft(kNs, RandomTokens(random, 12, 3), RandomOptions(random)).ok());
  }
}

TEST(SuffixStoreFilesTest, ADeletedTenantLeavesNoBytes) {
  std::mt19937_64 random(12);
  TempFolder folder;
  // Token patterns and a name that occur nowhere else, in a document that is in a segment file, in one that
  // is on the heap and in the log only, in one that was replaced and in one that was deleted before.
  const std::string name = "tenant-to-be-forgotten";
  Tokens canary = {0x1e2f3a4b, 0x7a6b5c4d};  // rising, so that they are neighbours in dictionaries, too
  const std::string_view needle(reinterpret_cast<const char*>(canary.data()), 8);
  auto with_canary = [&] {
    Tokens tokens = RandomTokens(random, 60, 50);
    tokens.insert(tokens.begin() + 30, canary.begin(), canary.end());
    return tokens;
  };
  auto count_files = [&](std::string_view pattern) {  // as it is, or in hexadecimal as logs may have it
    std::string hex = absl::BytesToHexString(std::string(pattern));
    std::string upper = absl::AsciiStrToUpper(hex);
    int count = 0;
    for (const auto& file : FilesUnder(folder / "store")) {
      const std::string bytes = ReadFile(file);
      for (std::string_view form : {pattern, std::string_view(hex), std::string_view(upper)}) {
        count += bytes.find(form) != std::string::npos;
      }
    }
    return count;
  };
  auto store = OpenStore(folder / "store", 1000);
  NaiveStore naive;
  for (int i = 0; i < 100; ++i) {
    const Tokens kept = RandomTokens(random, 60, 50);
    ASSERT_TRUE(store->Append(kNs, std::to_string(i), kept).ok());
    naive.Append(kNs, std::to_string(i), kept);
    ASSERT_TRUE(store->Append({name, i % 2 ? "f0" : "f1"}, std::to_string(i % 80), with_canary()).ok());
  }
  ASSERT_TRUE(*store->DeleteDocument({name, "f0"}, "31"));
  store.reset();
  store = OpenStore(folder / "store", 1000);  // so that some of it is in table files
  ASSERT_TRUE(store->Append({name, "f0"}, "last", with_canary()).ok());
  ASSERT_GT(count_files(needle), 1);
  int segments = 0;
  for (const auto& file : FilesUnder(folder / "store", ".seg"))
    segments += ReadFile(file).find(needle) != std::string::npos;
  ASSERT_GT(segments, 0);
  ASSERT_GT(count_files(name), 1);

  EXPECT_EQ(*store->DeleteTenant(name), 80u);
  EXPECT_EQ(count_files(needle), 0);
  EXPECT_EQ(count_files(name), 0);
  EXPECT_EQ(store->GetStats(name).documents, 0u);
  EXPECT_EQ(store->GetStats(name).tokens, 0u);
  EXPECT_EQ(*store->Draft({name, "f0"}, canary, {}), Trie{});
  EXPECT_EQ(*store->DeleteTenant(name), 0u);
  for (int query = 0; query < 50; ++query) {
    const Tokens context = RandomTokens(random, 6, 50);
    ASSERT_EQ(*store->Draft(kNs, context, {.min_match = 1}), naive.Draft(kNs, context, {.min_match = 1}));
  }
  EXPECT_TRUE(store->CheckIntegrity().ok()) << store->CheckIntegrity();
  store.reset();
  store = OpenStore(folder / "store");
  EXPECT_EQ(count_files(needle), 0);
  EXPECT_EQ(store->GetStats().documents, 100u);
  EXPECT_TRUE(*store->Append({name, "f0"}, "again", canary)) << "a deleted tenant may come back";
}

TEST(SuffixStoreFilesTest, ACheckpointOpensAndIsEqual) {
  std::mt19937_64 random(13);
  TempFolder folder;
  NaiveStore naive = FillStore(folder / "store", random);
  auto store = OpenStore(folder / "store", 2000);
  ASSERT_TRUE(store->Checkpoint(folder / "copy").ok());
  EXPECT_EQ(store->Checkpoint(folder / "copy").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(store->Checkpoint("/proc/nowhere").ok());
  ASSERT_TRUE(store->DeleteTenant(kNs.tenant).ok());
  auto copy = OpenStore(folder / "copy", 2000);
  ASSERT_NE(copy, nullptr);
  ExpectSame(*copy, naive, random);
  EXPECT_EQ(copy->GetStats().documents, naive.Documents(kNs).size());
  // Each goes its own way from here.
  ASSERT_TRUE(copy->Append(kNs, "more", Tokens(10, 1)).ok());
  EXPECT_EQ(store->GetStats().documents, 0u);
  EXPECT_TRUE(copy->CheckIntegrity().ok());
}

}  // namespace
}  // namespace clamor::retrieval
