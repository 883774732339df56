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
#include "rocksdb/cache.h"
#include "rocksdb/db.h"
#include "rocksdb/filter_policy.h"
#include "rocksdb/listener.h"
#include "rocksdb/options.h"
#include "rocksdb/table.h"

namespace clamor::retrieval {
namespace {

constexpr char kCatalog[] = "catalog", kDocuments[] = "documents", kExpiries[] = "expiries";

// RocksDB would look for room on a full disk every few seconds and refuse all changes until then: Write asks
// it to go on when there is something to write.
class RecoverWhenTold : public rocksdb::EventListener {
  void OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason, rocksdb::Status, bool* by_itself) override {
    *by_itself = false;
  }
};

rocksdb::DBOptions MakeDbOptions() {
  rocksdb::DBOptions options;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.max_total_wal_size = 64 << 20;  // bounds the replay after a crash
  options.max_open_files = 512;
  // Manifests name the first and last key of each file, and the log of events may name keys. A tenant that
  // was deleted must not live on in them: every change of the set of files starts a new manifest (it is
  // small), and events stay out.
  options.max_manifest_file_size = 1;
  options.info_log_level = rocksdb::WARN_LEVEL;
  options.keep_log_file_num = 2;
  options.listeners.push_back(std::make_shared<RecoverWhenTold>());
  return options;
}

rocksdb::ColumnFamilyOptions MakeFamilyOptions(const std::shared_ptr<rocksdb::Cache>& cache) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = cache;
  table.cache_index_and_filter_blocks = true;  // so that memory does not grow with the store
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  rocksdb::ColumnFamilyOptions options;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  options.write_buffer_size = 16 << 20;
  options.compression =
      rocksdb::kNoCompression;  // ids are dense; and what a purge removed can be looked for in the files
  options.level_compaction_dynamic_level_bytes = true;
  return options;
}

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
  rocksdb::DBOptions options = MakeDbOptions();
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
    families.emplace_back(name, MakeFamilyOptions(cache));
    if (name != kCatalog && name != kDocuments) families.back().options.write_buffer_size = 2 << 20;
  }

  std::unique_ptr<DocumentDb> db(new DocumentDb);
  rocksdb::DB* opened = nullptr;
  CLAMOR_RETURN_IF_ERROR(
      ToStatus(rocksdb::DB::Open(options, folder, families, &db->handles_, &opened), folder));
  db->db_.reset(opened);
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
