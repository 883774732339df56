// A store's RocksDB as it is opened: its options, its families, its version.
#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "retrieval/document_db.h"
#include "retrieval/document_db_rep.h"
#include "retrieval/rocks.h"
#include "rocksdb/db.h"

namespace clamor::retrieval {
namespace {

constexpr char kCatalog[] = "catalog", kDocuments[] = "documents", kExpiries[] = "expiries";

// RocksDB takes a folder without CURRENT for a new one, and would start empty over what is left of the old.
absl::Status CheckNotBeheaded(const std::string& folder) {
  std::error_code error;
  const std::filesystem::path path(folder);
  if (std::filesystem::exists(path / "CURRENT", error)) return absl::OkStatus();
  for (std::filesystem::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    const std::string extension = it->path().extension();
    if (extension == ".sst" || extension == ".log") {
      return absl::DataLossError(
          absl::StrCat(folder, ": CURRENT is missing, yet there is ", it->path().filename().string()));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<DocumentDb>> DocumentDb::Open(const std::string& folder, rocksdb::Env* env) {
  CLAMOR_RETURN_IF_ERROR(CheckNotBeheaded(folder));
  rocksdb::DBOptions options = RocksOptions(/*max_open_files=*/512);
  if (env != nullptr) options.env = env;
  // A folder of a later version may have more families; all must be opened to read its version.
  std::vector<std::string> names;
  if (std::error_code error; std::filesystem::exists(std::filesystem::path(folder) / "CURRENT", error)) {
    CLAMOR_RETURN_IF_ERROR(ToStatus(rocksdb::DB::ListColumnFamilies(options, folder, &names), folder));
  }
  for (const char* name : {"default", kCatalog, kDocuments, kExpiries}) {
    if (std::ranges::find(names, name) == names.end()) names.push_back(name);
  }
  const std::shared_ptr<rocksdb::Cache> cache = rocksdb::NewLRUCache(32 << 20);
  std::vector<rocksdb::ColumnFamilyDescriptor> families;
  for (const std::string& name : names) {
    families.emplace_back(name, RocksFamilyOptions(cache));
    if (name != kCatalog && name != kDocuments) families.back().options.write_buffer_size = 2 << 20;
  }

  std::unique_ptr<DocumentDb> db(new DocumentDb);
  rocksdb::DB* opened = nullptr;
  CLAMOR_RETURN_IF_ERROR(
      ToStatus(rocksdb::DB::Open(options, folder, families, &db->handles_, &opened), folder));
  db->db_.reset(opened);
  db->writer_ = std::make_unique<RocksWriter>();
  for (rocksdb::ColumnFamilyHandle* handle : db->handles_) {
    if (handle->GetName() == kCatalog) db->catalog_ = handle;
    if (handle->GetName() == kDocuments) db->documents_ = handle;
    if (handle->GetName() == kExpiries) db->expiries_ = handle;
  }
  CLAMOR_RETURN_IF_ERROR(db->CheckFormat(folder));
  return db;
}

DocumentDb::~DocumentDb() {
  if (db_ == nullptr) return;
  for (rocksdb::ColumnFamilyHandle* handle : handles_)
    db_->DestroyColumnFamilyHandle(handle).PermitUncheckedError();
  db_->Close().PermitUncheckedError();
}

absl::Status DocumentDb::CheckFormat(const std::string& folder) {
  std::string version;
  const rocksdb::Status found = db_->Get({}, kFormatKey, &version);
  if (found.IsNotFound()) {
    const std::unique_ptr<rocksdb::Iterator> any(db_->NewIterator({}, catalog_));
    any->SeekToFirst();
    if (any->Valid())
      return absl::DataLossError(absl::StrCat(folder, ": holds documents but no format version"));
    CLAMOR_RETURN_IF_ERROR(ToStatus(any->status(), folder));
    return PutFormat(kFirstFormat, folder.c_str());
  }
  CLAMOR_RETURN_IF_ERROR(ToStatus(found, folder));
  if (version != kFirstFormat && version != kExpiringFormat) {
    return absl::FailedPreconditionError(absl::StrCat(folder, ": has format version ", version,
                                                      ", this program reads versions ", kFirstFormat, " to ",
                                                      kExpiringFormat));
  }
  format_ = version;
  return absl::OkStatus();
}

}  // namespace clamor::retrieval
