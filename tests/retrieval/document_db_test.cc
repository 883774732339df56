#include "retrieval/document_db.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>

#include "gtest/gtest.h"
#include "retrieval/checksum.h"
#include "rocksdb/db.h"
#include "tests/retrieval/test_support.h"

namespace clamor::retrieval {
namespace {

constexpr std::string_view kPrefix("t\0f\0", 4);

absl::Status Put(DocumentDb& db, std::string_view id, const Tokens& tokens, uint64_t number) {
  const auto before = db.Find(kPrefix, id);
  if (!before.ok()) return before.status();
  const DocumentDb::Change change{.id = id, .before = *before, .tokens = tokens, .number = number};
  return db.Write(kPrefix, {&change, 1});
}

TEST(DocumentDbTest, PutsReplacesAndRemoves) {
  TempFolder folder;
  {
    auto db = DocumentDb::Open(folder / "db");
    ASSERT_TRUE(db.ok()) << db.status();
    ASSERT_TRUE(Put(**db, "a", {1, 2, 3}, 1).ok());
    ASSERT_TRUE(Put(**db, "b", {4}, 2).ok());
    ASSERT_TRUE(Put(**db, "a", {5, 6}, 3).ok());
    ASSERT_TRUE(Put(**db, "b", {}, 0).ok());
  }
  auto db = DocumentDb::Open(folder / "db");
  ASSERT_TRUE(db.ok()) << db.status();
  const auto a = (*db)->Find(kPrefix, "a");
  ASSERT_TRUE(a.ok() && a->has_value());
  EXPECT_EQ((*a)->number, 3u);
  EXPECT_EQ(*(*db)->Read(kPrefix, **a), (Tokens{5, 6}));
  EXPECT_FALSE((*db)->Find(kPrefix, "b")->has_value());
  EXPECT_EQ(*(*db)->CountBodies(""), 1u);
  const CatalogEntry replaced{.number = 1, .checksum = (*a)->checksum, .tokens = 3};
  const CatalogEntry longer{.number = 3, .checksum = (*a)->checksum, .tokens = 3};
  const CatalogEntry other{.number = 3, .checksum = (*a)->checksum + 1, .tokens = 2};
  for (const CatalogEntry& wrong : {replaced, longer, other}) {
    EXPECT_EQ((*db)->Read(kPrefix, wrong).status().code(), absl::StatusCode::kDataLoss);
  }
}

TEST(DocumentDbTest, NamesBothFormatVersions) {
  TempFolder folder;
  { ASSERT_TRUE(DocumentDb::Open(folder / "db").ok()); }
  {  // As a later version might leave it, with a column family that this one does not know.
    std::vector<rocksdb::ColumnFamilyDescriptor> families;
    for (const char* name : {"default", "catalog", "documents", "expiries"})
      families.emplace_back(name, rocksdb::ColumnFamilyOptions());
    std::vector<rocksdb::ColumnFamilyHandle*> handles;
    rocksdb::DB* db = nullptr;
    ASSERT_TRUE(rocksdb::DB::Open({}, folder / "db", families, &handles, &db).ok());
    ASSERT_TRUE(db->Put({}, "format", "3").ok());
    rocksdb::ColumnFamilyHandle* later = nullptr;
    ASSERT_TRUE(db->CreateColumnFamily({}, "later", &later).ok());
    handles.push_back(later);
    for (rocksdb::ColumnFamilyHandle* handle : handles)
      ASSERT_TRUE(db->DestroyColumnFamilyHandle(handle).ok());
    delete db;
  }
  const absl::Status status = DocumentDb::Open(folder / "db").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_NE(std::string(status.message()).find("format version 3, this program reads versions 1 to 2"),
            std::string::npos)
      << status;
}

TEST(DocumentDbTest, ExpiriesFollowTheirDocuments) {
  TempFolder folder;
  auto opened = DocumentDb::Open(folder / "db");
  ASSERT_TRUE(opened.ok());
  DocumentDb& db = **opened;
  const Tokens tokens = {1, 2};
  auto write = [&](std::string_view prefix, std::string_view id, uint64_t number, uint64_t expires) {
    const auto before = *db.Find(prefix, id);
    const DocumentDb::Change change{
        .id = id,
        .before = before,
        .tokens = number ? std::span<const uint32_t>(tokens) : std::span<const uint32_t>(),
        .number = number,
        .expires = expires};
    ASSERT_TRUE(db.Write(prefix, {&change, 1}).ok());
  };
  constexpr std::string_view kOther("t\0f1\0", 5), kThird("u\0f\0", 4);
  auto due = [&](uint64_t now, size_t limit = 100) {
    std::string found;
    const auto all = db.FindExpired(now, limit);
    for (const auto& each : *all) found += each.ns.tenant + each.ns.fingerprint + each.id + " ";
    return found;
  };
  write(kPrefix, "a", 1, 100);
  write(kPrefix, "b", 2, 50);
  write(kPrefix, "never", 3, 0);
  write(kOther, "c", 4, 70);
  write(kThird, "d", 5, 60);
  EXPECT_EQ(due(49), "");
  EXPECT_EQ(due(50), "tfb ");
  EXPECT_EQ(due(1000), "tfb tfa tf1c ufd ");
  EXPECT_EQ(due(1000, 2), "tfb tfa ");
  write(kPrefix, "b", 2, 80);  // the same document, later
  EXPECT_EQ(due(70), "tf1c ufd ");
  EXPECT_TRUE(*db.HasExpiry(kPrefix, 80, "b"));
  EXPECT_FALSE(*db.HasExpiry(kPrefix, 50, "b"));
  EXPECT_EQ(*db.Read(kPrefix, **db.Find(kPrefix, "b")), tokens);
  write(kPrefix, "b", 6, 0);  // another document, for ever
  write(kOther, "c", 0, 0);   // removed
  EXPECT_EQ(due(1000), "tfa ufd ");
  EXPECT_EQ(*db.CountExpiries("t"), 1u);
  EXPECT_EQ(*db.CountExpiries(""), 2u);
  EXPECT_EQ(*db.CountBodies(""), 4u);
  ASSERT_TRUE(db.EraseTenant("t").ok());
  ASSERT_TRUE(db.PurgeTenant("t").ok());
  EXPECT_EQ(due(1000), "ufd ");
}

TEST(DocumentDbTest, TheFormatChangesWithTheFirstExpiry) {
  TempFolder folder;
  auto format = [&] {
    rocksdb::Options options;
    std::vector<rocksdb::ColumnFamilyDescriptor> families;
    for (const char* name : {"default", "catalog", "documents", "expiries"})
      families.emplace_back(name, rocksdb::ColumnFamilyOptions());
    std::vector<rocksdb::ColumnFamilyHandle*> handles;
    rocksdb::DB* db = nullptr;
    EXPECT_TRUE(rocksdb::DB::OpenForReadOnly(options, folder / "db", families, &handles, &db).ok());
    std::string version;
    EXPECT_TRUE(db->Get({}, "format", &version).ok());
    for (rocksdb::ColumnFamilyHandle* handle : handles)
      EXPECT_TRUE(db->DestroyColumnFamilyHandle(handle).ok());
    delete db;
    return version;
  };
  const Tokens tokens = {1};
  for (const uint64_t expires : {0, 5}) {
    {
      auto db = DocumentDb::Open(folder / "db");
      ASSERT_TRUE(db.ok()) << db.status();
      const DocumentDb::Change change{.id = "a",
                                      .before = *(*db)->Find(kPrefix, "a"),
                                      .tokens = tokens,
                                      .number = 1 + expires,
                                      .expires = expires};
      ASSERT_TRUE((*db)->Write(kPrefix, {&change, 1}).ok());
    }
    EXPECT_EQ(format(), expires == 0 ? "1" : "2");
  }
}

TEST(DocumentDbTest, IngestIsWrite) {
  std::mt19937_64 random(1);
  TempFolder folder;
  auto ingested = *DocumentDb::Open(folder / "ingested"), written = *DocumentDb::Open(folder / "written");
  uint64_t number = 1;
  for (int round = 0; round < 20; ++round) {
    // Some removed, some replaced, some new, some told another expiry, in no order of ids.
    std::vector<std::string> ids;
    for (int i = 0; i < 30; ++i) ids.push_back(std::to_string(i));
    std::ranges::shuffle(ids, random);
    ids.resize(1 + random() % 20);
    std::vector<Tokens> bodies(ids.size());
    std::vector<DocumentDb::Change> changes;
    for (size_t i = 0; i < ids.size(); ++i) {
      const auto before = *written->Find(kPrefix, ids[i]);
      const int action = static_cast<int>(random() % 3);
      if (action > 0 || !before) bodies[i] = RandomTokens(random, 1 + random() % 9, 100);
      if (action == 1 && before) bodies[i] = *written->Read(kPrefix, *before);
      const uint64_t same_number = before ? before->number : 0;
      changes.push_back({.id = ids[i],
                         .before = before,
                         .tokens = bodies[i],
                         .number = action == 1 && before ? same_number : number++,
                         .expires = bodies[i].empty() ? 0 : random() % 3});
    }
    ASSERT_TRUE(written->Write(kPrefix, changes).ok());
    const absl::Status status = ingested->Ingest(kPrefix, changes, folder / "scratch");
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_FALSE(std::filesystem::exists(folder / "scratch"));
    for (int i = 0; i < 30; ++i) {
      const auto a = *ingested->Find(kPrefix, std::to_string(i)),
                 b = *written->Find(kPrefix, std::to_string(i));
      ASSERT_EQ(a, b);
      if (!a) continue;
      ASSERT_EQ(*ingested->Read(kPrefix, *a), *written->Read(kPrefix, *b));
      ASSERT_TRUE(a->expires == 0 || *ingested->HasExpiry(kPrefix, a->expires, std::to_string(i)));
    }
    ASSERT_EQ(*ingested->CountBodies("t"), *written->CountBodies("t"));
    ASSERT_EQ(*ingested->CountExpiries("t"), *written->CountExpiries("t"));
    if (round % 5 == 4) {
      ingested.reset();
      ingested = *DocumentDb::Open(folder / "ingested");
    }
  }
  EXPECT_TRUE(ingested->Ingest(kPrefix, {}, folder / "scratch").ok());
}

TEST(DocumentDbTest, DocumentsWithoutAFormatVersionAreDataLoss) {
  TempFolder folder;
  {
    rocksdb::Options options;
    options.create_if_missing = true;
    rocksdb::DB* db = nullptr;
    ASSERT_TRUE(rocksdb::DB::Open(options, folder / "db", &db).ok());
    rocksdb::ColumnFamilyHandle* catalog = nullptr;
    ASSERT_TRUE(db->CreateColumnFamily({}, "catalog", &catalog).ok());
    ASSERT_TRUE(db->Put({}, catalog, "x", "y").ok());
    ASSERT_TRUE(db->DestroyColumnFamilyHandle(catalog).ok());
    delete db;
  }
  EXPECT_EQ(DocumentDb::Open(folder / "db").status().code(), absl::StatusCode::kDataLoss);
}

TEST(DocumentDbTest, AMissingOrDamagedFileIsDataLoss) {
  for (const std::string victim : {"CURRENT", ".sst", "MANIFEST"}) {
    for (const bool remove : {true, false}) {
      TempFolder folder;
      {
        auto db = DocumentDb::Open(folder / "db");
        ASSERT_TRUE(db.ok());
        ASSERT_TRUE(Put(**db, "a", Tokens(1000, 7), 1).ok());
        ASSERT_TRUE((*db)->PurgeTenant("t").ok());  // into table files
      }
      for (const auto& file : FilesUnder(folder / "db")) {
        if (file.filename().string().find(victim) == std::string::npos) continue;
        if (remove) {
          std::filesystem::remove(file);
        } else {
          std::fstream out(file, std::ios::in | std::ios::out | std::ios::binary);
          out.seekp(std::filesystem::file_size(file) / 2);
          out << "damage damage damage damage";
        }
      }
      auto db = DocumentDb::Open(folder / "db");
      absl::Status status = db.status();
      if (db.ok()) status = (*db)->ForEach("", [](auto&&...) { return absl::OkStatus(); });
      const CatalogEntry entry{.number = 1, .checksum = TokenChecksum(Tokens(1000, 7)), .tokens = 1000};
      if (status.ok()) status = (*db)->Read(kPrefix, entry).status();
      EXPECT_FALSE(status.ok()) << victim << remove;
      EXPECT_FALSE(status.message().empty());
    }
  }
}

}  // namespace
}  // namespace clamor::retrieval
