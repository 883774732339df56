#include "retrieval/document_db.h"

#include <filesystem>
#include <fstream>

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
    for (const char* name : {"default", "catalog", "documents"})
      families.emplace_back(name, rocksdb::ColumnFamilyOptions());
    std::vector<rocksdb::ColumnFamilyHandle*> handles;
    rocksdb::DB* db = nullptr;
    ASSERT_TRUE(rocksdb::DB::Open({}, folder / "db", families, &handles, &db).ok());
    ASSERT_TRUE(db->Put({}, "format", "2").ok());
    rocksdb::ColumnFamilyHandle* later = nullptr;
    ASSERT_TRUE(db->CreateColumnFamily({}, "later", &later).ok());
    handles.push_back(later);
    for (rocksdb::ColumnFamilyHandle* handle : handles)
      ASSERT_TRUE(db->DestroyColumnFamilyHandle(handle).ok());
    delete db;
  }
  const absl::Status status = DocumentDb::Open(folder / "db").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_NE(std::string(status.message()).find("format version 2, this program reads version 1"),
            std::string::npos)
      << status;
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
